/* How does one step run on CPU tensors? One pass over memory: every buffer is read once and written once.

   Plain C, called through ctypes with raw addresses: no torch or Python headers, so one build serves every torch.
   A tensor is cut into blocks, which threads take one by one; each block writes its own float64 partial sums, which are
   added in a fixed order, so that the result does not depend on the number of threads. A block is worked off in tiles
   that fit the first cache: what is not float32 in memory is converted into a tile and back.

   Build without -ffast-math (old compilers then switch denormals off for the whole process) and with -ffp-contract=off
   (the elements are then the same on every processor). */

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "cpu_c_method.h"

#if defined(__FLT16_MANT_DIG__)
#define HALF 1
#else
#define HALF 0
#endif

#define BLOCK 65536 /* elements that one thread takes at a time */
#define TILE 1024
#define FIELDS (2 + BUFFERS) /* x, g, buffers */
#define MAX_THREADS 256
#define MAX_NUMEL ((int64_t)1 << 48)

enum { F32 = 0, BF16 = 1, F16 = 2 };

/* One tensor. field: addresses of x, g and the method's buffers in the order of its functions; 0: it has none.
   kinds: 4 bits a field. origin: see `noise`. cut, first: every cut-th entry, from `first` on, is in the sliced buffers; cut 0: all are. */
typedef struct {
  int64_t numel, field[FIELDS], kinds, origin, first, cut;
} row_t;

typedef struct {
  double coefficient[COEFFICIENTS];
  double scale, decay; /* g / scale; g + decay * x */
  double safe;         /* gradients up to here overflow nothing: others are tried first, see `tame` */
  const method_t *method;
  int32_t maximize, dry, threads;
  uint32_t seed;
  int32_t scaled; /* the coefficient that each tensor has a factor of its own for, or -1 */
} job_t;

static inline int kind_of(const row_t *row, int field) { return (int)(row->kinds >> (4 * field)) & 15; }

/* ---------------------------------------------------------------- no method, and sums of squares */

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

/* No method: the first c[0] of c[1] buffers are read and written, g and the other buffers read, and x neither, read, or written
   too (c[3]: 0, 1, 2), one after the other within a tile, which was the fastest order found; next to nothing is computed. What
   memory alone allows. */
static void traffic(int64_t n, float *x, const float *g, float *const *b, const double *c, double *sum) {
  sum[0] += add_up(n, g);
  for (int k = (int)c[0]; k < (int)c[1]; ++k) sum[0] += add_up(n, b[k]);
  for (int k = 0; k < (int)c[0]; ++k) scale(n, b[k], (float)c[2]);
  if (c[3] == 1) sum[0] += add_up(n, x);
  if (c[3] == 2) scale(n, x, (float)c[2]);
}

#define TRAFFIC(n) {.buffers = n, .sums = 1, .tile = traffic}
static const method_t traffic_of[] = {
    TRAFFIC(0), TRAFFIC(1), TRAFFIC(2), TRAFFIC(3), TRAFFIC(4),  TRAFFIC(5),  TRAFFIC(6),
    TRAFFIC(7), TRAFFIC(8), TRAFFIC(9), TRAFFIC(10), TRAFFIC(11), TRAFFIC(12),
};

/* The method of that name with so many buffers, or null. */
const method_t *dadapt_traffic(int buffers) { return buffers >= 0 && buffers <= BUFFERS ? traffic_of + buffers : NULL; }

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

/* The largest number that a field can hold. */
static const float largest[] = {[F32] = FLT_MAX, [BF16] = 0x1.fep127f, [F16] = 65504.0f};

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

/* The entries of a tile that are in the sliced buffers. n: how many, the first being `first` and every cut-th further one; q: its
   place in them. x, g: theirs. b: the method's buffers, the sliced ones at q; of: copies of what it reads of the others. */
typedef struct {
  int64_t n, first, q;
  float x[TILE], g[TILE], of[BUFFERS][TILE], *b[BUFFERS];
} slice_t;

/* Take gradient elements whose step would overflow as if they were not finite: as 0, and counted. The method itself says
   which; where the decay alone overflows, it is left out too. slice: null where nothing is sliced. */
static void tame(const row_t *row, const job_t *job, const double *c, int64_t n, const float *x, float *g, float *const *b, slice_t *slice, uint8_t *wrong, double *bad) {
  const method_t *method = job->method;
  float limit[1 + BUFFERS];
  uint8_t fit[TILE], of_slice[TILE];
  limit[0] = largest[kind_of(row, 0)];
  for (int k = 0; k < method->buffers; ++k) limit[1 + k] = largest[kind_of(row, 2 + k)];
  for (int pass = 0, over = 1; over && pass < 2; ++pass) {
    method->fits(n, x, g, b, c, limit, fit);
    if (slice) {
      for (int64_t j = 0; j < slice->n; ++j) slice->g[j] = g[slice->first + j * row->cut];
      method->slice_fits(slice->n, slice->x, slice->g, slice->b, c, limit, of_slice);
      for (int64_t j = 0; j < slice->n; ++j) fit[slice->first + j * row->cut] &= of_slice[j];
    }
    over = 0;
    for (int64_t i = 0; i < n; ++i) {
      if (fit[i]) continue;
      g[i] = wrong[i] || job->decay == 0.0 ? 0.0f : (float)job->decay * x[i];
      *bad += !wrong[i];
      over = wrong[i] = 1;
    }
  }
}

/* Where the method finds a field: in memory, or in `tile`, which is filled from there. */
static float *reach(const row_t *row, int field, int dry, int64_t at, int64_t n, float *tile) {
  const int kind = kind_of(row, field);
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

/* Find the entries of a tile that are in the sliced buffers, and what they are before the step. */
static void find_slice(const row_t *row, const job_t *job, int64_t at, int64_t n, const float *x, const float *g, float *const *b, float tiles[][TILE], slice_t *slice) {
  slice->first = (row->first - at % row->cut + row->cut) % row->cut;
  slice->q = (at + slice->first - row->first) / row->cut;
  slice->n = slice->first < n ? (n - slice->first + row->cut - 1) / row->cut : 0;
  for (int64_t j = 0, i = slice->first; j < slice->n; ++j, i += row->cut) slice->x[j] = x[i], slice->g[j] = g[i];
  for (int k = 0; k < job->method->buffers; ++k) {
    slice->b[k] = job->method->sliced >> k & 1 && slice->n ? reach(row, 2 + k, job->dry, slice->q, slice->n, tiles[2 + k]) : NULL;
    if (!(job->method->at_slice >> k & 1)) continue;
    slice->b[k] = slice->of[k];
    for (int64_t j = 0, i = slice->first; j < slice->n; ++j, i += row->cut) slice->of[k][j] = b[k][i];
  }
}

/* Write to memory what is not there already: of n elements from `at` on, from `from`. */
static void write_back(const row_t *row, const job_t *job, int k, int64_t at, int64_t n, const float *from) {
  if (kind_of(row, 2 + k) == BF16)
    store_stochastic(n, from, (uint16_t *)row->field[2 + k] + at, (uint32_t)(row->origin + at), job->seed);
}

/* A step with a large gradient, or with what is multiplied: tried first, and nothing that it writes leaves what memory holds. */
static __attribute__((noinline)) void run_loud(const row_t *row, const job_t *job, const double *c, int64_t n, float *x, float *g, float *const *b, slice_t *slice, uint8_t *wrong, double *sum) {
  const method_t *method = job->method;
  float before[1 + BUFFERS][TILE];
  const int written = method->buffers - method->read_only;
  tame(row, job, c, n, x, g, b, slice, wrong, sum + SUMS - 1);
  memcpy(before[0], x, (size_t)n * 4);
  for (int k = 0; k < written; ++k) {
    float *const *of = method->sliced >> k & 1 ? slice->b : b;
    const int64_t count = method->sliced >> k & 1 ? slice->n : n;
    if (count) memcpy(before[1 + k], of[k], (size_t)count * 4);
  }
  if (slice) {
    for (int64_t j = 0; j < slice->n; ++j) slice->g[j] = g[slice->first + j * row->cut];
    method->slice(slice->n, slice->x, slice->g, slice->b, c, sum);
  }
  method->tile(n, x, g, b, c, sum);
  stay(n, x, before[0], largest[kind_of(row, 0)]);
  for (int k = 0; k < written; ++k) {
    if (method->sliced >> k & 1) stay(slice->n, slice->b[k], before[1 + k], largest[kind_of(row, 2 + k)]);
    else stay(n, b[k], before[1 + k], largest[kind_of(row, 2 + k)]);
  }
}

/* squares: gets the sum of x squared, as memory holds x after the step, or is null. */
static void run_tile(const row_t *row, const job_t *job, const double *c, int64_t at, int64_t n, double *sum, double *squares) {
  float tiles[FIELDS][TILE], *b[BUFFERS];
  uint8_t wrong[TILE];
  slice_t slice;
  int loud;
  const method_t *method = job->method;
  const int buffers = method->buffers, written = buffers - method->read_only;
  float *x = reach(row, 0, job->dry, at, n, tiles[0]);
  const float *g = gradient(row, job, at, n, x, tiles[1], wrong, &loud, sum + SUMS - 1);
  for (int k = 0; k < buffers; ++k) b[k] = method->sliced >> k & 1 ? NULL : reach(row, 2 + k, job->dry, at, n, tiles[2 + k]);
  if (row->cut) find_slice(row, job, at, n, x, g, b, tiles, &slice);
  if (method->loud && !loud && method->loud(n, x, b, c, safe_for(row, job))) {
    loud = 1;
    memset(wrong, 0, (size_t)n);
    if (g != tiles[1]) g = memcpy(tiles[1], g, (size_t)n * 4);
  }
  if (loud && method->fits) {
    run_loud(row, job, c, n, x, tiles[1], b, row->cut ? &slice : NULL, wrong, sum);
  } else {
    if (row->cut) method->slice(slice.n, slice.x, slice.g, slice.b, c, sum);
    method->tile(n, x, g, b, c, sum);
  }
  if (squares) {
    round_as_stored(kind_of(row, 0), n, x);
    *squares += add_squares(n, x);
  }
  if (job->dry) return;
  store(kind_of(row, 0), n, x, (void *)row->field[0], at);
  for (int k = 0; k < written; ++k) {
    if (method->sliced >> k & 1) write_back(row, job, k, slice.q, slice.n, slice.b[k]);
    else write_back(row, job, k, at, n, b[k]);
  }
}

/* The gradient of a measure, in float64: elements that are not finite, or whose square float32 does not hold, are 0. Returns how
   many these are. */
CLONES static int64_t measured_gradient(int64_t n, const float *g, const float *x, double scale, double sign, double decay, double *to) {
  int64_t bad = 0;
  const double most = sqrt((double)FLT_MAX);
  if (scale == 1.0 && decay == 0.0) {
    SIMD(omp simd reduction(+ : bad))
    for (int64_t i = 0; i < n; ++i) {
      const double whole = sign * (double)g[i];
      const int is_usable = fabs(whole) <= most;
      to[i] = is_usable ? whole : 0.0;
      bad += !is_usable;
    }
    return bad;
  }
  SIMD(omp simd reduction(+ : bad))
  for (int64_t i = 0; i < n; ++i) {
    const double whole = sign * (double)g[i] / scale + (decay != 0.0 ? decay * (double)x[i] : 0.0);
    const int is_usable = fabs(whole) <= most;
    to[i] = is_usable ? whole : 0.0;
    bad += !is_usable;
  }
  return bad;
}

/* The sums of before a step. Nothing is written. */
static void measure_tile(const row_t *row, const job_t *job, const double *c, int64_t at, int64_t n, double *sum) {
  float tiles[FIELDS][TILE], *b[BUFFERS];
  double g[TILE];
  const float *x = reach(row, 0, 0, at, n, tiles[0]), *raw = reach(row, 1, 0, at, n, tiles[1]);
  for (int k = 0; k < job->method->buffers; ++k) b[k] = reach(row, 2 + k, 0, at, n, tiles[2 + k]);
  if (job->scale == 1.0 && job->decay == 0.0 && !job->maximize && !count_loud(n, raw, root)) {
    job->method->measure_plain(n, x, raw, b, c, sum);
  } else {
    sum[SUMS - 1] += (double)measured_gradient(n, raw, x, job->scale, job->maximize ? -1.0 : 1.0, job->decay, g);
    job->method->measure(n, x, g, b, c, sum);
  }
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
  double c[COEFFICIENTS];
  memcpy(c, run->job->coefficient, sizeof c);
  for (int64_t k; (k = atomic_fetch_add(&run->next, 1)) < run->blocks;) {
    const row_t *row = run->rows[run->tensor[k]];
    const int64_t from = (k - run->start[run->tensor[k]]) * BLOCK;
    const int64_t to = row->numel - from < BLOCK ? row->numel : from + BLOCK;
    double *sum = run->partial + k * SUMS, *squares = run->squares ? run->squares + k : NULL;
    if (run->factors) c[run->job->scaled] = run->job->coefficient[run->job->scaled] * run->factors[run->tensor[k]];
    for (int64_t at = from; at < to; at += TILE) {
      const int64_t n = to - at < TILE ? to - at : TILE;
      if (run->job->method->measure) measure_tile(row, run->job, c, at, n, sum);
      else run_tile(row, run->job, c, at, n, sum, squares);
    }
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
static int is_row(const row_t *row, const method_t *method) {
  if (row->numel < 0 || row->numel > MAX_NUMEL || row->cut < 0 || !row->cut != !method->sliced) return 0;
  if (row->cut && !(0 <= row->first && row->first < row->cut)) return 0;
  for (int field = 0; field < FIELDS; ++field) {
    const int is_sliced = field > 1 && method->sliced >> (field - 2) & 1;
    const int64_t entries = field >= 2 + method->buffers ? 0 : is_sliced ? row->numel - row->first : row->numel;
    if (!is_field(row, field, entries > 0)) return 0;
  }
  return 1;
}

static int is_method(const method_t *method) {
  if (!method || method->buffers < 0 || method->buffers > BUFFERS || method->read_only < 0 || method->read_only > method->buffers) return 0;
  if (method->at_slice & method->sliced || method->at_slice >> method->buffers) return 0;
  if (method->sums < 0 || method->sums >= SUMS) return 0;
  if (method->measure) return !method->sliced && method->measure_plain;
  return method->tile && (!method->sliced || (method->slice && method->slice_fits && method->sliced >> method->buffers == 0));
}

enum { DONE = 0, NO_MEMORY = 1, NONSENSE = 2 };

/* Run one step over n tensors. factors, squares: of each tensor, what its coefficient `scaled` is multiplied by, and the weighted
   sum of x squared after the step that it gets; both null, or neither. out: SUMS weighted sums; the last is the number of gradient elements that are not finite, or
   whose step would overflow. Returns DONE; or NO_MEMORY or NONSENSE, for what no tensor can be, without having touched anything. */
int dadapt_step(int64_t n, const row_t *const *rows, const double *weights, const job_t *job, double *out, const double *factors, double *squares) {
  for (int k = 0; k < SUMS; ++k) out[k] = 0;
  if (n < 0 || n > INT32_MAX || !is_method(job->method)) return NONSENSE;
  if (!factors != !squares || (factors && (job->scaled < 0 || job->scaled >= COEFFICIENTS))) return NONSENSE;
  for (int64_t t = 0; t < n; ++t)
    if (!is_row(rows[t], job->method)) return NONSENSE;
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
int dadapt_version(void) { return VERSION; }
