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

#define PARALLEL_ROWS _Pragma("omp parallel for schedule(static)")
#define CAT_(a, b) a##_##b
#define CAT(a, b) CAT_(a, b)
