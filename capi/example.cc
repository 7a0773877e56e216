/* example.cc: runs a package of `fastrecon export --to pt2` with libtorch, without Python.
 *
 *   T=$(python -c 'import torch; print(torch.__path__[0])')          # or a libtorch of its own, 2.10 or newer
 *   c++ -std=c++20 example.cc -I. -I$T/include -L. -L$T/lib -lfastrecon -ltorch_cpu -lc10 \
 *     -Wl,--disable-new-dtags,-rpath,'$ORIGIN':$T/lib -o example
 *   ./example model.pt2 y.f32 x.f32 2 4 5 272                 (y [2, 4, 5, 272]: numbers as they are in memory)
 */
#include <ATen/ops/from_blob.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>

#include <cstdio>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <string>
#include <vector>

extern "C" {  // of libfastrecon: fastrecon.h
int fr_torch_ops(void);
const char* fr_error(void);
}

static int fail(const char* what) {
  std::fprintf(stderr, "example: %s\n", what);
  return 2;
}

int main(int argc, char** argv) try {
  if (argc < 5) return fail("expected PACKAGE MEASUREMENTS RESULT SIZES...");
  if (fr_torch_ops()) return fail(fr_error());  // before the package, which looks for them when it is loaded
  torch::inductor::AOTIModelPackageLoader model(argv[1]);

  std::vector<std::int64_t> sizes;
  std::int64_t count = 1;
  for (int i = 4; i < argc; ++i) {
    sizes.push_back(std::strtoll(argv[i], nullptr, 10));
    count *= sizes.back();
  }
  std::vector<float> y(count > 0 ? std::size_t(count) : 0);
  std::ifstream in(argv[2], std::ios::binary);
  if (y.empty() || !in.read(reinterpret_cast<char*>(y.data()), std::streamsize(y.size() * sizeof(float))))
    return fail("expected a file with all measurements");

  const at::Tensor x = model.run({at::from_blob(y.data(), sizes)})[0].contiguous();
  std::ofstream out(argv[3], std::ios::binary);
  out.write(static_cast<const char*>(x.const_data_ptr()), std::streamsize(x.nbytes()));
  if (!out.flush()) return fail("the result could not be written");
  for (const std::int64_t n : x.sizes()) std::printf("%lld ", static_cast<long long>(n));
  std::puts("");
  return 0;
} catch (const std::exception& e) {
  const std::string what = e.what();  // and where it was, in many lines
  return fail(what.substr(0, what.find('\n')).c_str());
}
