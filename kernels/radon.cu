// radon.cu: line integrals of images along rays by Joseph's interpolation, and the exact adjoint (CUDA C++, CuPy).
// Definition: fastrecon/ops/radon.py. Maths: Joseph, IEEE Trans. Med. Imaging 1 (1982).
//   x [N, H, W]   turned [N, W, H] = x transposed   y [N, A, D]   lines [3, A, D]  start, slope, length
//   axis [A, D]  +-1: the ray steps over rows, +-2: over columns
// Positions are taken in units of 2^-32 pixel, which is exact: both directions find the same cells and fractions. The
// adjoint has no atomics: a tile of pixels looks up which rays of a view can meet it and adds them in their order.

namespace fastrecon {
using T = REAL;
constexpr double kUnits = 4294967296.0;  // in a pixel
constexpr int kThreads = 256;
constexpr int kSide = 16;   // of the adjoint's tiles: a square meets the fewest rays
constexpr int kStrip = 16;  // lines summed before they are added to a total: two levels keep rounding small
constexpr int kViews = kThreads / 2;  // looked up at a time, two threads each

__device__ __forceinline__ long long units(double position) { return (long long)(position * kUnits); }
__device__ __forceinline__ int cell_of(long long position) { return int(position >> 32); }
__device__ __forceinline__ T fraction_of(long long position) { return T(unsigned(position)) * T(1 / kUnits); }

// The first ray of a view that passes (row, column), its neighbours' order ahead, by more than `distance`.
__device__ inline int first_ray(const double* start, const double* slope, const signed char* axis, float row, float column,
                                int D, float distance) {
  int low = 0, high = D;
  while (low < high) {
    const int d = (low + high) / 2;
    const bool rows = axis[d] == 1 || axis[d] == -1;
    const float s = float(slope[d]), line = rows ? row : column, cell = rows ? column : row;
    const float ahead = (float(start[d]) + s * line - cell) / sqrtf(1 + s * s);
    if ((axis[d] > 0 ? ahead : -ahead) > distance)
      high = d;
    else
      low = d + 1;
  }
  return low;
}
}  // namespace fastrecon

extern "C" __global__ void radon(const REAL* x, const REAL* turned, const double* lines, const signed char* axis, REAL* y,
                                 long long A, long long D, long long H, long long W) {
  using namespace fastrecon;
  const long long chunks = (D + kThreads - 1) / kThreads, view = blockIdx.x / chunks % A, n = blockIdx.x / chunks / A;
  const long long d = blockIdx.x % chunks * kThreads + threadIdx.x, ray = view * D + d;
  if (d >= D) return;
  const bool rows = axis[ray] == 1 || axis[ray] == -1;
  const int count = int(rows ? H : W), cells = int(rows ? W : H);
  const T* line = (rows ? x : turned) + n * H * W;  // neighbouring rays read neighbouring numbers
  const long long slope = units(lines[A * D + ray]);
  long long position = units(lines[ray]);
  T total = 0;
  for (int first = 0; first < count; first += kStrip) {
    T part = 0;
    const int last = first + kStrip < count ? first + kStrip : count;
    for (int i = first; i < last; ++i, position += slope, line += cells) {
      const int cell = cell_of(position);
      const T f = fraction_of(position);
      const T left = cell >= 0 && cell < cells ? line[cell] : T(0);
      const T right = cell >= -1 && cell < cells - 1 ? line[cell + 1] : T(0);
      part += left * (1 - f) + right * f;
    }
    total += part;
  }
  y[n * A * D + ray] = total * T(lines[2 * A * D + ray]);
}

extern "C" __global__ void radon_adjoint(const REAL* y, const double* lines, const signed char* axis, REAL* x, long long A,
                                         long long D, long long H, long long W) {
  using namespace fastrecon;
  __shared__ int range[kViews][2];
  const int down = int((H + kSide - 1) / kSide), across = int((W + kSide - 1) / kSide);
  const int first_i = int(blockIdx.x / across % down) * kSide, first_j = int(blockIdx.x % across) * kSide;
  const long long n = blockIdx.x / across / down;
  const int i = first_i + int(threadIdx.x) / kSide, j = first_j + int(threadIdx.x) % kSide;
  const double *start = lines, *slope = lines + A * D, *length = lines + 2 * A * D;
  const float middle = (kSide - 1) / 2.0f;
  const float reach = 0.7072f * (kSide - 1) + 1.1f;  // to a corner pixel, its neighbour, and float32 of the look-up
  T total = 0;
  for (long long base = 0; base < A; base += kViews) {
    const long long looked_up = base + threadIdx.x / 2;
    if (looked_up < A)
      range[threadIdx.x / 2][threadIdx.x % 2] =
          first_ray(start + looked_up * D, slope + looked_up * D, axis + looked_up * D, first_i + middle,
                    first_j + middle, int(D), threadIdx.x % 2 ? reach : -reach);
    __syncthreads();
    for (int v = 0; v < kViews && base + v < A; ++v)
      for (int d = range[v][0]; d < range[v][1]; ++d) {
        const long long ray = (base + v) * D + d;
        const bool rows = axis[ray] == 1 || axis[ray] == -1;
        const long long position = units(start[ray]) + units(slope[ray]) * (rows ? i : j);
        const int ahead = (rows ? j : i) - cell_of(position);
        const T f = fraction_of(position);
        const T weight = ahead == 0 ? 1 - f : ahead == 1 ? f : T(0);
        total += y[n * A * D + ray] * T(length[ray]) * weight;
      }
    __syncthreads();  // before the next look-up
  }
  if (i < H && j < W) x[(n * H + i) * W + j] = total;
}
