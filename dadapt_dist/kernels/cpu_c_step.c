/* How does one step run on CPU tensors? One pass over memory: every buffer is read once and written once.

   Plain C, called through ctypes with raw addresses: no torch or Python headers, so one build serves every torch.
   A tensor is cut into blocks, which threads take one by one; each block writes its own float64 partial sums, which are
   added in a fixed order, so that the result does not depend on the number of threads. A block is worked off in tiles
   that fit the first cache: what is not float32 in memory is converted into a tile and back.

   Build without -ffast-math (old compilers then switch denormals off for the whole process) and with -ffp-contract=off
   (the elements are then the same on every processor). */

#include <float.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if !defined(DADAPT_PLAIN) && defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && defined(__GLIBC__)
#define CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define CLONES
#endif
#if defined(__FLT16_MANT_DIG__)
#define HALF 1
#else
#define HALF 0
#endif

#define BLOCK 65536 /* elements that one thread takes at a time */
#define TILE 1024
#define BUFFERS 5
#define FIELDS (2 + BUFFERS) /* x, g, buffers */
#define SUMS 4               /* at most three of a method, and the elements that are not finite */
#define COEFFICIENTS 12
#define MAX_THREADS 256
#define MAX_NUMEL ((int64_t)1 << 48)

enum { F32 = 0, BF16 = 1, F16 = 2 };

/* One tensor. field: addresses of x, g and the method's buffers in the order of its function below; 0: it has none.
   kinds: 4 bits a field. origin: see `noise`. cut, first: every cut-th entry, from `first` on, is in the sliced buffers; cut 0: all are. */
typedef struct {
  int64_t numel, field[FIELDS], kinds, origin, first, cut;
} row_t;

typedef struct {
  double coefficient[COEFFICIENTS];
  double scale, decay; /* g / scale; g + decay * x */
  double safe;         /* gradients up to here overflow nothing: others are tried first, see `tame` */
  int32_t method, maximize, dry, threads;
  uint32_t seed;
  int32_t scaled; /* the coefficient that each tensor has a factor of its own for, or -1 */
} job_t;

static inline int kind_of(const row_t *row, int field) { return (int)(row->kinds >> (4 * field)) & 15; }

/* ---------------------------------------------------------------- the methods, on one tile of float32 */

typedef void tile_t(int64_t n, float *x, const float *g, float *const *b, const float *c, double *sum);

#define SIMD(reductions) _Pragma(#reductions)

/* A step of prodigy that only puts x back to its start. */
static double back_to_start(int64_t n, float *x, const float *g, float *const *b) {
  const float *x0 = b[3];
  double inner = 0;
  for (int64_t i = 0; i < n; ++i) inner += (double)g[i] * (double)(x0[i] - x[i]);
  memcpy(x, x0, (size_t)n * 4);
  for (int k = 0; k < 3; ++k) memset(b[k], 0, (size_t)n * 4);
  return inner;
}

CLONES static void prodigy_step(int64_t n, float *x, const float *g, float *const *b, const float *c, double *sum) {
  float *m = b[0], *v = b[1], *s = b[2];
  const float *x0 = b[3];
  const float b1 = c[0], to_m = c[1], b2 = c[2], to_v = c[3], b3 = c[4], to_s = c[5], keep = c[6], step = c[7], eps = c[8];
  double inner = 0, l1 = 0;
  SIMD(omp simd reduction(+ : inner, l1))
  for (int64_t i = 0; i < n; ++i) {
    const float mi = b1 * m[i] + to_m * g[i], vi = b2 * v[i] + to_v * (g[i] * g[i]), si = b3 * s[i] + to_s * g[i];
    inner += (double)g[i] * (double)(x0[i] - x[i]);
    l1 += (double)fabsf(si);
    m[i] = mi;
    v[i] = vi;
    s[i] = si;
    x[i] = x[i] * keep - step * mi / (sqrtf(vi) + eps);
  }
  sum[0] += inner;
  sum[1] += l1;
}

static void prodigy(int64_t n, float *x, const float *g, float *const *b, const float *c, double *sum) {
  if (c[9] > 0)
    sum[0] += back_to_start(n, x, g, b);
  else
    prodigy_step(n, x, g, b, c, sum);
}

CLONES static void dadapt_adam(int64_t n, float *x, const float *g, float *const *b, const float *c, double *sum) {
  float *m = b[0], *v = b[1], *s = b[2];
  const float b1 = c[0], to_m = c[1], b2 = c[2], to_v = c[3], b3 = c[4], to_s = c[5], keep = c[6], eps = c[7];
  double inner = 0, l1 = 0;
  SIMD(omp simd reduction(+ : inner, l1))
  for (int64_t i = 0; i < n; ++i) {
    const float mi = b1 * m[i] + to_m * g[i], vi = b2 * v[i] + to_v * (g[i] * g[i]), si = b3 * s[i] + to_s * g[i];
    inner += (double)(g[i] * s[i] / (sqrtf(v[i]) + eps));
    l1 += (double)fabsf(si);
    m[i] = mi;
    v[i] = vi;
    s[i] = si;
    x[i] = x[i] * keep - mi / (sqrtf(vi) + eps);
  }
  sum[0] += inner;
  sum[1] += l1;
}

CLONES static void dadapt_sgd(int64_t n, float *x, const float *g, float *const *b, const float *c, double *sum) {
  float *s = b[0];
  const float *x0 = b[1];
  const float gamma = c[0], r = c[1], pull = c[2];
  double inner = 0, sq = 0;
  SIMD(omp simd reduction(+ : inner, sq))
  for (int64_t i = 0; i < n; ++i) {
    const float si = s[i] + gamma * g[i];
    inner += (double)g[i] * (double)s[i];
    sq += (double)si * (double)si;
    s[i] = si;
    x[i] += pull * ((x0[i] - si * r) - x[i]);
  }
  sum[0] += inner;
  sum[1] += sq;
}

CLONES static void dadapt_adagrad(int64_t n, float *x, const float *g, float *const *b, const float *c, double *sum) {
  float *alpha = b[0], *s = b[1];
  const float *x0 = b[2];
  const float gamma = c[0], r = c[1], eps = c[2], pull = c[3];
  float before[TILE];
  double gsq = 0, sksq = 0, l1 = 0;
  if (pull != 1.0f) memcpy(before, x, sizeof(float) * (size_t)n);
  SIMD(omp simd reduction(+ : gsq, sksq, l1))
  for (int64_t i = 0; i < n; ++i) {
    const float square = g[i] * g[i], ai = alpha[i] + square, si = s[i] + gamma * g[i], denom = sqrtf(ai) + eps;
    gsq += (double)(square / denom);
    sksq += (double)(si * si / denom);
    l1 += (double)fabsf(si);
    alpha[i] = ai;
    s[i] = si;
    x[i] = x0[i] - si * r / denom; /* z; a choice here would make the loop ten times slower */
  }
  if (pull != 1.0f)
    for (int64_t i = 0; i < n; ++i) x[i] = before[i] + pull * (x[i] - before[i]);
  sum[0] += gsq;
  sum[1] += sksq;
  sum[2] += l1;
}

CLONES static void dadapt_adan(int64_t n, float *x, const float *g, float *const *b, const float *c, double *sum) {
  float *m = b[0], *d = b[1], *v = b[2], *s = b[3], *before = b[4];
  const float b1 = c[0], to_m = c[1], b2 = c[2], to_n = c[3], b3 = c[4], to_v = c[5], average = c[6], to_s = c[7], keep = c[8],
              shrink = c[9], eps = c[10];
  double gsq = 0, sksq = 0, l1 = 0;
  SIMD(omp simd reduction(+ : gsq, sksq, l1))
  for (int64_t i = 0; i < n; ++i) {
    const float diff = before[i] != before[i] ? 0.0f : g[i] - before[i]; /* NaN: no gradient was seen yet */
    const float ahead = g[i] + b2 * diff, mi = b1 * m[i] + to_m * g[i], ni = b2 * d[i] + to_n * diff;
    const float vi = b3 * v[i] + to_v * (ahead * ahead), si = average * s[i] + to_s * g[i], denom = sqrtf(vi) + eps;
    gsq += (double)(g[i] * g[i] / denom);
    sksq += (double)(si * si / denom);
    l1 += (double)fabsf(si);
    m[i] = mi;
    d[i] = ni;
    v[i] = vi;
    s[i] = si;
    before[i] = g[i];
    x[i] = (x[i] * keep - (mi + b2 * ni) / denom) / shrink;
  }
  sum[0] += gsq;
  sum[1] += sksq;
  sum[2] += l1;
}

CLONES static void dadapt_lion(int64_t n, float *x, const float *g, float *const *b, const float *c, double *sum) {
  float *m = b[0], *s = b[1];
  const float b1 = c[0], to_u = c[1], b2 = c[2], to_m = c[3], average = c[4], to_s = c[5], keep = c[6], step = c[7];
  double inner = 0, l1 = 0;
  SIMD(omp simd reduction(+ : inner, l1))
  for (int64_t i = 0; i < n; ++i) {
    const float a = b1 * m[i] + to_u * g[i], u = a > 0 ? 1.0f : a < 0 ? -1.0f : 0.0f, si = average * s[i] + to_s * u;
    inner += (double)(u * s[i]);
    l1 += (double)fabsf(si);
    m[i] = b2 * m[i] + to_m * g[i];
    s[i] = si;
    x[i] = x[i] * keep - step * u;
  }
  sum[0] += inner;
  sum[1] += l1;
}

CLONES static void scale(int64_t n, float *a, float by) {
  SIMD(omp simd)
  for (int64_t i = 0; i < n; ++i) a[i] *= by;
}

CLONES static double add_up(int64_t n, const float *a) {
  float all = 0;
  SIMD(omp simd reduction(+ : all))
  for (int64_t i = 0; i < n; ++i) all += a[i];
  return all;
}

CLONES static double add_squares(int64_t n, const float *a) {
  double all = 0;
  SIMD(omp simd reduction(+ : all))
  for (int64_t i = 0; i < n; ++i) all += (double)a[i] * (double)a[i];
  return all;
}

/* No method: x and the first c[0] of c[1] buffers are read and written, g and the other buffers read, one after the other
   within a tile, which was the fastest order found; next to nothing is computed. What memory alone allows. */
static void traffic(int64_t n, float *x, const float *g, float *const *b, const float *c, double *sum) {
  sum[0] += add_up(n, g);
  for (int k = (int)c[0]; k < (int)c[1]; ++k) sum[0] += add_up(n, b[k]);
  for (int k = 0; k < (int)c[0]; ++k) scale(n, b[k], c[2]);
  scale(n, x, c[2]);
}

/* read_only: the last so many buffers are x0, never written. squared: the buffer whose squares are summed up, or -1. pull: the
   coefficient by which x goes on towards a point that it does not reach in one step, or -1. waits: g times that
   buffer is summed up, and a first coefficient of 0 says that the size of the first gradient, squared, is not known yet. */
typedef struct {
  tile_t *tile;
  int buffers, read_only, squared, pull, waits;
} method_t;

static const method_t methods[] = {
    {prodigy, 4, 1, -1, -1, 0},   {dadapt_adam, 3, 0, -1, -1, 0}, {dadapt_sgd, 2, 1, 0, 2, 1}, {dadapt_adagrad, 3, 1, 1, 3, 0},
    {dadapt_adan, 5, 0, 3, -1, 0}, {dadapt_lion, 2, 0, -1, -1, 0}, {traffic, 5, 0, -1, -1, 0},
};
#define METHODS ((int)(sizeof methods / sizeof *methods))

/* ---------------------------------------------------------------- from memory to a tile, and back */

static inline uint32_t bits(float f) {
  uint32_t u;
  memcpy(&u, &f, 4);
  return u;
}

static inline float from_bits(uint32_t u) {
  float f;
  memcpy(&f, &u, 4);
  return f;
}

static inline uint16_t to_bf16(float f, uint32_t add) {
  const uint32_t u = bits(f), finite = (uint16_t)((u + add) >> 16), special = (u & 0x7fffff) ? 0x7fc0 : u >> 16;
  return (uint16_t)((u & 0x7f800000) == 0x7f800000 ? special : finite);
}

/* Random bits of one element in one step: the same however the tensors are cut into blocks and given to threads. */
static inline uint32_t noise(uint32_t element, uint32_t seed) {
  uint32_t h = element ^ (seed * 0x9E3779B9u);
  h ^= h >> 16;
  h *= 0x7feb352du;
  h ^= h >> 15;
  h *= 0x846ca68bu;
  h ^= h >> 16;
  return h & 0xffff;
}

CLONES static void load_bf16(int64_t n, const uint16_t *from, float *to) {
  for (int64_t i = 0; i < n; ++i) to[i] = from_bits((uint32_t)from[i] << 16);
}

CLONES static void store_nearest(int64_t n, const float *from, uint16_t *to) {
  for (int64_t i = 0; i < n; ++i) to[i] = to_bf16(from[i], 0x7fff + ((bits(from[i]) >> 16) & 1));
}

CLONES static void store_stochastic(int64_t n, const float *from, uint16_t *to, uint32_t element, uint32_t seed) {
  for (int64_t i = 0; i < n; ++i) to[i] = to_bf16(from[i], noise(element + (uint32_t)i, seed));
}

#if HALF
CLONES static void load_half(int64_t n, const _Float16 *from, float *to) {
  for (int64_t i = 0; i < n; ++i) to[i] = (float)from[i];
}

CLONES static void store_half(int64_t n, const float *from, _Float16 *to) {
  for (int64_t i = 0; i < n; ++i) to[i] = (_Float16)from[i];
}
#endif

static void load(int kind, int64_t n, const void *from, int64_t at, float *to) {
  if (kind == F32) memcpy(to, (const float *)from + at, (size_t)n * 4);
  else if (kind == BF16) load_bf16(n, (const uint16_t *)from + at, to);
#if HALF
  else load_half(n, (const _Float16 *)from + at, to);
#endif
}

/* What memory will hold of x. */
static void round_as_stored(int kind, int64_t n, float *x) {
  if (kind == BF16)
    for (int64_t i = 0; i < n; ++i) x[i] = from_bits((uint32_t)to_bf16(x[i], 0x7fff + ((bits(x[i]) >> 16) & 1)) << 16);
#if HALF
  else if (kind == F16)
    for (int64_t i = 0; i < n; ++i) x[i] = (float)(_Float16)x[i];
#endif
}

static void store(int kind, int64_t n, const float *from, void *to, int64_t at) {
  if (kind == BF16) store_nearest(n, from, (uint16_t *)to + at);
#if HALF
  else if (kind == F16) store_half(n, from, (_Float16 *)to + at);
#endif
}

/* How many are NaN, or larger than `safe`? */
CLONES static int64_t count_loud(int64_t n, const float *g, float safe) {
  int32_t loud = 0;
  SIMD(omp simd reduction(+ : loud))
  for (int64_t i = 0; i < n; ++i) loud += !(fabsf(g[i]) <= safe);
  return loud;
}

CLONES static void transform(int64_t n, float *g, const float *x, float sign, float decay) {
  for (int64_t i = 0; i < n; ++i) g[i] = sign * g[i] + decay * x[i];
}

CLONES static void negate(int64_t n, float *g) {
  for (int64_t i = 0; i < n; ++i) g[i] = -g[i];
}

CLONES static void divide(int64_t n, float *g, float scale) {
  for (int64_t i = 0; i < n; ++i) g[i] /= scale;
}

/* ---------------------------------------------------------------- one tile, one block, all blocks */

/* The largest number that a field can hold, and the largest whose square float32 can hold. */
static const float largest[] = {[F32] = FLT_MAX, [BF16] = 0x1.fep127f, [F16] = 65504.0f};
static const float root = 0x1.fffffep63f;

/* Gradients of a parameter in float16 may leave it much sooner. */
static inline float safe_for(const row_t *row, const job_t *job) { return (float)(kind_of(row, 0) == F16 ? job->safe * 0x1p-30 : job->safe); }

/* The gradient that the method sees: in memory where it can be used as it stands, else in `tile`. wrong: gets which elements
   were not finite; they are 0. Returns in `loud` whether a large one has to be tried before it is used. */
static const float *gradient(const row_t *row, const job_t *job, int64_t at, int64_t n, const float *x, float *tile, uint8_t *wrong, int *loud, double *bad) {
  const int kind = kind_of(row, 1), plain = kind == F32 && job->scale == 1.0;
  const float *g = (const float *)row->field[1] + at, safe = safe_for(row, job);
  if (!plain) {
    load(kind, n, (const void *)row->field[1], at, tile);
    if (job->scale != 1.0) divide(n, tile, (float)job->scale);
    g = tile;
  }
  *loud = count_loud(n, g, safe) != 0;
  if (!*loud && !job->maximize && job->decay == 0.0) return g;
  if (g != tile) memcpy(tile, g, (size_t)n * 4);
  memset(wrong, 0, (size_t)n);
  for (int64_t i = 0; *loud && i < n; ++i)
    if (!(fabsf(tile[i]) <= FLT_MAX)) tile[i] = 0, wrong[i] = 1, *bad += 1;
  if (job->decay != 0.0) transform(n, tile, x, job->maximize ? -1.0f : 1.0f, (float)job->decay);
  else if (job->maximize) negate(n, tile);
  if (*loud || job->decay != 0.0) *loud = count_loud(n, tile, safe) != 0;
  return tile;
}

/* Does a step leave element i with what memory can hold, and with a square where one is summed up? */
static int fits(const row_t *row, const method_t *method, const float *c, int64_t i, float g, const float *x, float *const *b, float *const *before) {
  if (!(fabsf(x[i]) <= largest[kind_of(row, 0)])) return 0;
  for (int k = 0; k < method->buffers - method->read_only; ++k)
    if (row->field[2 + k] && !(fabsf(b[k][i]) <= (k == method->squared ? root : largest[kind_of(row, 2 + k)]))) return 0;
  if (!method->waits) return 1;
  return fabsf(g * before[method->squared][i]) <= FLT_MAX && (c[0] != 0.0f || fabsf(g) <= root);
}

/* Take gradient elements whose step would overflow as if they were not finite: as 0, and counted. The method itself says
   which, on copies; where the decay alone overflows, it is left out too. */
static void tame(const row_t *row, const job_t *job, const float *c, int64_t n, const float *x, float *g, float *const *b, uint8_t *wrong, double *bad) {
  const method_t *method = methods + job->method;
  float copy[1 + BUFFERS][TILE], *to[BUFFERS], heading[COEFFICIENTS];
  memcpy(heading, c, sizeof heading);
  if (method->pull >= 0) heading[method->pull] = 1;
  for (int pass = 0, over = 1; over && pass < 2; ++pass) {
    double ignored[SUMS] = {0};
    memcpy(copy[0], x, (size_t)n * 4);
    for (int k = 0; k < method->buffers; ++k) to[k] = memcpy(copy[1 + k], b[k], (size_t)n * 4);
    method->tile(n, copy[0], g, to, heading, ignored);
    over = 0;
    for (int64_t i = 0; i < n; ++i) {
      if (fits(row, method, c, i, g[i], copy[0], to, b)) continue;
      g[i] = wrong[i] || job->decay == 0.0 ? 0.0f : (float)job->decay * x[i];
      *bad += !wrong[i];
      over = wrong[i] = 1;
    }
  }
}

/* The first entry from `at` on that is in the sliced buffers, counted from `at`; q: its place in them. */
static int64_t first_of(const row_t *row, int64_t at, int64_t *q) {
  const int64_t first = (row->first - at % row->cut + row->cut) % row->cut;
  *q = (at + first - row->first) / row->cut;
  return first;
}

/* The sliced s of a tile, at the entries to which it belongs. */
static void spread(const row_t *row, int64_t at, int64_t n, float *s) {
  int64_t q;
  for (int64_t i = first_of(row, at, &q); i < n; i += row->cut, ++q) load(kind_of(row, 4), 1, (const void *)row->field[4], q, s + i);
}

/* Prodigy's estimate from every cut-th entry: s and x0 hold only those. */
static void sliced(const row_t *row, const job_t *job, int64_t at, int64_t n, const float *x, const float *g, const float *c, double *sum) {
  int64_t q;
  for (int64_t i = first_of(row, at, &q); i < n; i += row->cut, ++q) {
    float s, x0;
    load(kind_of(row, 4), 1, (const void *)row->field[4], q, &s);
    load(kind_of(row, 5), 1, (const void *)row->field[5], q, &x0);
    s = c[4] * s + c[5] * g[i];
    sum[0] += (double)g[i] * (double)(x0 - x[i]);
    sum[1] += (double)fabsf(s);
    if (job->dry) continue;
    if (kind_of(row, 4) == F32) ((float *)row->field[4])[q] = s;
    else store_stochastic(1, &s, (uint16_t *)row->field[4] + q, (uint32_t)(row->origin + q), job->seed);
  }
}

/* Where the method finds a field: in memory, or in `tile`, which is filled from there. */
static float *reach(const row_t *row, int field, int dry, int64_t at, int64_t n, float *tile) {
  const int kind = kind_of(row, field);
  if (row->field[field] == 0) return memset(tile, 0, (size_t)n * 4);
  if (kind == F32 && !dry) return (float *)row->field[field] + at;
  load(kind, n, (const void *)row->field[field], at, tile);
  return tile;
}

/* An element that a step would carry beyond what memory can hold even without a gradient (a decay of more than twice the
   weight, a large momentum) stays where it was. */
static void stay(int64_t n, float *t, const float *before, float limit) {
  for (int64_t i = 0; i < n; ++i)
    if (!(fabsf(t[i]) <= limit)) t[i] = before[i];
}

/* squares: gets the sum of x squared, as memory holds x after the step, or is null. */
static void run_tile(const row_t *row, const job_t *job, const float *c, int64_t at, int64_t n, double *sum, double *squares) {
  float tiles[FIELDS][TILE], before[FIELDS][TILE], *b[BUFFERS];
  uint8_t wrong[TILE];
  int loud;
  const method_t *method = methods + job->method;
  const int buffers = method->buffers, written = buffers - method->read_only;
  row_t whole = *row;
  if (row->cut) whole.field[4] = whole.field[5] = 0;
  float *x = reach(row, 0, job->dry, at, n, tiles[0]);
  const float *g = gradient(row, job, at, n, x, tiles[1], wrong, &loud, sum + SUMS - 1);
  for (int k = 0; k < buffers; ++k) b[k] = reach(&whole, 2 + k, job->dry, at, n, tiles[2 + k]);
  if (loud) {
    if (row->cut) spread(row, at, n, b[2]);
    tame(row, job, c, n, x, tiles[1], b, wrong, sum + SUMS - 1);
    memcpy(before[0], x, (size_t)n * 4);
    for (int k = 0; k < written; ++k) memcpy(before[1 + k], b[k], (size_t)n * 4);
  }
  if (row->cut) sliced(row, job, at, n, x, g, c, sum);
  double ignored[SUMS] = {0};
  method->tile(n, x, g, b, c, row->cut ? ignored : sum);
  if (loud) {
    stay(n, x, before[0], largest[kind_of(row, 0)]);
    for (int k = 0; k < written; ++k)
      if (whole.field[2 + k]) stay(n, b[k], before[1 + k], largest[kind_of(row, 2 + k)]);
  }
  if (squares) {
    round_as_stored(kind_of(row, 0), n, x);
    *squares += add_squares(n, x);
  }
  if (job->dry) return;
  store(kind_of(row, 0), n, x, (void *)row->field[0], at);
  for (int k = 0; k < written; ++k)
    if (kind_of(row, 2 + k) == BF16 && whole.field[2 + k])
      store_stochastic(n, b[k], (uint16_t *)row->field[2 + k] + at, (uint32_t)(row->origin + at), job->seed);
}

typedef struct {
  const row_t *const *rows;
  const job_t *job;
  const int32_t *tensor; /* of each block */
  const int64_t *start;  /* first block of each tensor */
  int64_t blocks;
  double *partial;
  const double *factors; /* of each tensor, or null */
  double *squares;       /* of each block, or null */
  atomic_llong next;
} run_t;

static void *take_blocks(void *argument) {
  run_t *run = argument;
  float c[COEFFICIENTS];
  for (int k = 0; k < COEFFICIENTS; ++k) c[k] = (float)run->job->coefficient[k];
  for (int64_t k; (k = atomic_fetch_add(&run->next, 1)) < run->blocks;) {
    const row_t *row = run->rows[run->tensor[k]];
    const int64_t from = (k - run->start[run->tensor[k]]) * BLOCK;
    const int64_t to = row->numel - from < BLOCK ? row->numel : from + BLOCK;
    double *sum = run->partial + k * SUMS, *squares = run->squares ? run->squares + k : NULL;
    if (run->factors) c[run->job->scaled] = (float)(run->job->coefficient[run->job->scaled] * run->factors[run->tensor[k]]);
    for (int64_t at = from; at < to; at += TILE) run_tile(row, run->job, c, at, to - at < TILE ? to - at : TILE, sum, squares);
  }
  return NULL;
}

static void run_threads(run_t *run, int threads) {
  pthread_t helper[MAX_THREADS];
  int started = 0;
  while (started < threads - 1 && started < MAX_THREADS && !pthread_create(helper + started, NULL, take_blocks, run)) ++started;
  take_blocks(run); /* the caller works too, and alone where no thread can be had */
  for (int k = 0; k < started; ++k) pthread_join(helper[k], NULL);
}

static int is_field(const row_t *row, int field, int needed) {
  const int kind = kind_of(row, field);
  if (kind > F16 || (kind == F16 && (!HALF || field > 1))) return 0;
  return row->field[field] ? row->field[field] % (kind == F32 ? 4 : 2) == 0 : !needed;
}

/* Is this a row that the step can take? What python says of memory cannot be proved here, but nonsense is refused. */
static int is_row(const row_t *row, const job_t *job) {
  if (row->numel < 0 || row->numel > MAX_NUMEL || row->cut < 0) return 0;
  for (int field = 0; field < FIELDS; ++field)
    if (!is_field(row, field, field < 2 && row->numel > 0)) return 0;
  if (row->cut == 0) return 1;
  return job->method == 0 && 0 <= row->first && row->first < row->cut && (row->first >= row->numel || (row->field[4] && row->field[5]));
}

enum { DONE = 0, NO_MEMORY = 1, NONSENSE = 2 };

/* Run one step over n tensors. factors, squares: of each tensor, what its coefficient `scaled` is multiplied by, and the weighted
   sum of x squared after the step that it gets; both null, or neither. out: SUMS weighted sums; the last is the number of gradient elements that are not finite, or
   whose step would overflow. Returns DONE; or NO_MEMORY or NONSENSE, for what no tensor can be, without having touched anything. */
int dadapt_step(int64_t n, const row_t *const *rows, const double *weights, const job_t *job, double *out, const double *factors, double *squares) {
  for (int k = 0; k < SUMS; ++k) out[k] = 0;
  if (n < 0 || n > INT32_MAX || job->method < 0 || job->method >= METHODS) return NONSENSE;
  if (!factors != !squares || (factors && (job->scaled < 0 || job->scaled >= COEFFICIENTS))) return NONSENSE;
  for (int64_t t = 0; t < n; ++t)
    if (!is_row(rows[t], job)) return NONSENSE;
  int64_t blocks = 0, elements = 0;
  for (int64_t t = 0; t < n; ++t) blocks += (rows[t]->numel + BLOCK - 1) / BLOCK, elements += rows[t]->numel;
  int32_t *tensor = malloc((size_t)(blocks + 1) * sizeof *tensor);
  int64_t *start = malloc((size_t)(n + 1) * sizeof *start);
  double *partial = calloc((size_t)(blocks + 1) * (SUMS + 1), sizeof *partial); /* sums of all blocks, then their squares */
  const int failed = tensor && start && partial ? DONE : NO_MEMORY;
  if (failed == DONE) {
    for (int64_t t = 0, k = 0; t < n; ++t)
      for (start[t] = k; k < start[t] + (rows[t]->numel + BLOCK - 1) / BLOCK; ++k) tensor[k] = (int32_t)t;
    run_t run = {.rows = rows, .job = job, .tensor = tensor, .start = start, .blocks = blocks, .partial = partial, .factors = factors, .squares = squares ? partial + (blocks + 1) * SUMS : NULL};
    const int64_t useful = 1 + elements / BLOCK;
    run_threads(&run, useful < job->threads ? (int)useful : job->threads);
    for (int64_t k = 0; k < blocks; ++k)
      for (int j = 0; j < SUMS; ++j) out[j] += weights[tensor[k]] * partial[k * SUMS + j];
    for (int64_t t = 0; squares && t < n; ++t) squares[t] = 0;
    for (int64_t k = 0; squares && k < blocks; ++k) squares[tensor[k]] += weights[tensor[k]] * run.squares[k];
  }
  free(tensor);
  free(start);
  free(partial);
  return failed;
}

/* What this build can do: bit 0, float16. The version rises with every change of row_t, job_t or an argument. */
int dadapt_abilities(void) { return HALF; }
int dadapt_version(void) { return 5; }
