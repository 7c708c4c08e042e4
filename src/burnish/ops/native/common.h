/* What all kernels share: bf16 and fp32 numbers, a vectorisable exponential, and how rows are divided among threads. */
#pragma once
#include <math.h>
#include <stdint.h>
#include <string.h>

typedef uint16_t bf16;
typedef float f32;

static inline float bf16_load(bf16 value) {
    uint32_t bits = (uint32_t)value << 16;
    float result;
    memcpy(&result, &bits, 4);
    return result;
}

/* Round to nearest, ties to even; a NaN stays one (rounding its bits could carry it over to infinity or zero). */
static inline bf16 bf16_round(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    uint32_t rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
    return (bf16)(value != value ? 0x7FC0u : rounded);
}

static inline float f32_load(f32 value) { return value; }
static inline f32 f32_round(float value) { return value; }

/* e^x to about 2 ulp for x <= 88: 2^n times a polynomial of the rest, |rest| <= ln 2 / 2; 0 below -87; NaN stays NaN. */
static inline float fast_exp(float x) {
    float clamped = x < -87.0f ? -87.0f : x;
    clamped = clamped > 88.0f ? 88.0f : clamped;
    float n = rintf(clamped * 1.44269504f);
    float r = fmaf(n, -0.693359375f, clamped);
    r = fmaf(n, 2.12194440e-4f, r);
    float p = 1.9875691500e-4f;
    p = fmaf(p, r, 1.3981999507e-3f);
    p = fmaf(p, r, 8.3334519073e-3f);
    p = fmaf(p, r, 4.1665795894e-2f);
    p = fmaf(p, r, 1.6666665459e-1f);
    p = fmaf(p, r, 5.0000001201e-1f);
    p = fmaf(p, r * r, r) + 1.0f;
    int32_t bits = ((int32_t)n + 127) << 23;
    float power;
    memcpy(&power, &bits, 4);
    float result = p * power;
    result = x < -87.0f ? 0.0f : result;
    return x != x ? x : result;
}

static inline float sigmoid(float x) { return 1.0f / (1.0f + fast_exp(-x)); }

/* Dropout: number `column` of the row that `key` stands for is kept if its hash reaches the threshold, rate * 2^32. The
   mask is a function of seed and place, so the backward pass makes it again, whatever thread works where. */
typedef struct {
    uint32_t threshold, low, high; /* threshold 0: nothing is dropped; the seed in two halves */
    float grown;                   /* 1 / (1 - rate) */
} Dropout;

static inline uint32_t mix(uint32_t x) {
    x ^= x >> 16;
    x *= 0x7FEB352Du;
    x ^= x >> 15;
    x *= 0x846CA68Bu;
    return x ^ x >> 16;
}

#define STEP 0x9E3779B9u
static inline uint32_t row_key(const Dropout *d, uint32_t row) { return mix(d->low ^ mix(row * STEP + d->high)); }
/* A row's key is mixed well, so one round is enough for what tells its columns apart. The two numbers are handed over by
   value: read through the pointer in the loop, they would keep it from being vectorised. */
static inline float kept(uint32_t threshold, float grown, uint32_t key, uint32_t column) {
    uint32_t x = key + column * STEP;
    x ^= x >> 16;
    x *= 0x7FEB352Du;
    return (x ^ x >> 15) >= threshold ? grown : 0.0f;
}

/* erf to 1.5e-7 (Abramowitz & Stegun, 7.1.26), from e = exp(-x^2). */
static inline float erf_from(float x, float e) {
    float t = 1.0f / fmaf(0.3275911f, fabsf(x), 1.0f);
    float p = fmaf(t, 1.061405429f, -1.453152027f);
    p = fmaf(p, t, 1.421413741f);
    p = fmaf(p, t, -0.284496736f);
    p = fmaf(p, t, 0.254829592f);
    return copysignf(1.0f - p * t * e, x);
}

#define PARALLEL_ROWS _Pragma("omp parallel for schedule(static)")
#define CAT_(a, b) a##_##b
#define CAT(a, b) CAT_(a, b)
