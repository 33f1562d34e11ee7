/* What cpu_c_step.c and the functions of a method know of each other. The functions are printed by cpu_c_source.py, behind this text. */

#include <float.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if !defined(DADAPT_PLAIN) && defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && defined(__GLIBC__)
#define CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define CLONES
#endif
#define SIMD(reductions) _Pragma(#reductions)

#define BUFFERS 12 /* of a method at most; cpu_c.py has these numbers, too */
#define COEFFICIENTS 32
#define SUMS 16 /* at most 15 of a method, and the elements that are not finite */
#define VERSION 8

/* All of n elements, which lie in memory as float32. b: the buffers, those that are only read last. c: coefficients.

   tile: advance x and the buffers, and add to the raw sums.
   fits: whether a step leaves each element with what memory can hold, and with squares that float32 holds. limit: the largest
   numbers of x and of the buffers.
   loud: whether anything that is multiplied is larger than `safe`.
   measure: add to the raw sums of before a step, in float64. measure_plain: the same, of gradients that are used as they are. */
typedef void tile_t(int64_t n, float *x, const float *g, float *const *b, const double *c, double *sum);
typedef void fits_t(int64_t n, const float *x, const float *g, float *const *b, const double *c, const float *limit, uint8_t *fit);
typedef int loud_t(int64_t n, const float *x, float *const *b, const double *c, float safe);
typedef void measure_t(int64_t n, const float *x, const double *g, float *const *b, const double *c, double *sum);
typedef void measure_plain_t(int64_t n, const float *x, const float *g, float *const *b, const double *c, double *sum);

/* One way through a method. sliced: bit k says that buffer k has some entries of the tensor alone; the slice functions then get
   x, g, these buffers and, only to read, those of at_slice at those entries, and the others know nothing of sliced buffers.
   Functions that are not needed: null. */
typedef struct {
  int32_t buffers, read_only, sums, sliced, at_slice;
  tile_t *tile;
  fits_t *fits;
  loud_t *loud;
  tile_t *slice;
  fits_t *slice_fits;
  measure_t *measure;
  measure_plain_t *measure_plain;
} method_t;

static const float root __attribute__((unused)) = 0x1.fffffep63f; /* the largest number whose square float32 holds */

/* A coefficient as float32, where an infinite one would make NaN of a gradient of 0. */
static inline __attribute__((unused)) float within(double value) {
  return value > (double)FLT_MAX ? FLT_MAX : value < -(double)FLT_MAX ? -FLT_MAX : (float)value;
}
