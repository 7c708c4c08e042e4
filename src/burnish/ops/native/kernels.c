/* Fused kernels of a training step on a processor. Compiled for the machine that it runs on; see build.py. */
#include "common.h"

#define T bf16
#define LOAD bf16_load
#define ROUND bf16_round
#include "rows.inc"
#undef T
#undef LOAD
#undef ROUND

#define T f32
#define LOAD f32_load
#define ROUND f32_round
#include "rows.inc"
#undef T
#undef LOAD
#undef ROUND

#include "attention.inc"
#include "codes.inc"
#include "low_rank.inc"
#include "eight_bits.inc"
