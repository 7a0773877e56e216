/* example.c: reconstructs one picture from measurements in a file, and prints its certificate.
 *
 *   cc example.c -I. -L. -lfastrecon -Wl,-rpath,'$ORIGIN' -o example
 *   ./example model.safetensors HEIGHT WIDTH y.f32 x.f32        (numbers as they are in memory, row by row)
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "fastrecon.h"

static int fail(const char* what) {
  fprintf(stderr, "example: %s\n", what);
  return 2;
}

int main(int argc, char** argv) {
  if (argc != 6) return fail("expected MODEL HEIGHT WIDTH MEASUREMENTS RESULT");
  const int64_t height = strtoll(argv[2], NULL, 10), width = strtoll(argv[3], NULL, 10);
  fr_model* model = NULL;
  int64_t count = 0;
  if (fr_load(argv[1], &model) || fr_measurements(model, height, width, &count)) return fail(fr_error());

  float* y = malloc(sizeof(float) * (size_t)count);
  float* x = malloc(sizeof(float) * (size_t)(height * width));
  FILE* in = fopen(argv[4], "rb");
  if (!y || !x || !in || fread(y, sizeof(float), (size_t)count, in) != (size_t)count)
    return fail("expected a file with all measurements");
  fclose(in);

  if (fr_reconstruct(model, height, width, y, x)) return fail(fr_error());

  FILE* out = fopen(argv[5], "wb");
  if (!out || fwrite(x, sizeof(float), (size_t)(height * width), out) != (size_t)(height * width) || fclose(out))
    return fail("the result could not be written");
  static const char* const names[] = {"phi", "objective", "grad_norm", "gap", "eps", "iterations"};
  printf("%s, %" PRId64 " x %" PRId64 "\n", fr_method(model), height, width);
  for (size_t i = 0; i < sizeof names / sizeof *names; ++i) {
    double value;
    if (!fr_certificate(model, names[i], &value)) printf("%s %.9g\n", names[i], value);
  }
  free(y), free(x), fr_free(model);
  return 0;
}
