/* fastrecon.h: trained models from C, without Python and torch. One image at a time; float32; the CPU.
 *
 * A model is a file that `fastrecon export MODEL --to c` writes: LDA for block compressed sensing, FISTA with a wavelet
 * for the same measurements, D-LADMM for salt-and-pepper noise. Images have the bits of Python's, where both use one
 * instruction set (FASTRECON_ISA) and one number of threads (OMP_NUM_THREADS).
 *
 * Every function but fr_error answers 0, or 1 where it failed: fr_error() then says why. A model serves one thread at a
 * time; several may work with models of their own.
 */
#ifndef FASTRECON_H
#define FASTRECON_H
#include <stdint.h>

#if defined(__GNUC__)
#define FR_API __attribute__((visibility("default")))
#else
#define FR_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef struct fr_model fr_model;

/* The model in a file. */
FR_API int fr_load(const char* path, fr_model** model);

/* Numbers that measurements of a picture of height x width pixels are. Block sensing: [rows, cols, m], blocks in
 * row-major order, `rows` and `cols` as many blocks as the picture begins; the picture itself for D-LADMM. */
FR_API int fr_measurements(const fr_model* model, int64_t height, int64_t width, int64_t* count);

/* The picture x [height, width] of measurements y, all finite. */
FR_API int fr_reconstruct(fr_model* model, int64_t height, int64_t width, const float* y, float* x);

/* A number of the certificate of the last picture, by the name that it has in Python: LDA phi, phi_eps, merit,
 * grad_norm, eps, took_u, reductions, iterations; FISTA objective, iterations; D-LADMM objective,
 * primal_residual, gap, iterations. */
FR_API int fr_certificate(const fr_model* model, const char* name, double* value);

/* The name of the method: "lda", "fista", "d-ladmm". */
FR_API const char* fr_method(const fr_model* model);

/* Defines the ops fastrecon::* of this process's libtorch (2.10 or newer), which packages of `fastrecon export --to
 * pt2` call. Loading this library does so too where libtorch is there by then; this says why it could not. */
FR_API int fr_torch_ops(void);

/* Why the last call of this thread failed, one line. */
FR_API const char* fr_error(void);

FR_API void fr_free(fr_model* model);

#ifdef __cplusplus
}
#endif
#endif
