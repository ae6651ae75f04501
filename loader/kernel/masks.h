/* 64 bytes of CSV at a time, as bit masks: bit i says something of byte i.

   SSE2 and NEON, which every x86-64 and every AArch64 processor has; plain C elsewhere, with the same results. */
#ifndef LOADER_MASKS_H
#define LOADER_MASKS_H

#include <stdint.h>
#include <string.h>

#if defined(LOADER_PLAIN_C)
/* for the tests of what other processors run */
#elif defined(__SSE2__) || defined(_M_X64)
#include <emmintrin.h>
#define LOADER_SSE2 1
#elif defined(__aarch64__) || defined(_M_ARM64)
#include <arm_neon.h>
#define LOADER_NEON 1
#endif

#if defined(_MSC_VER) && !defined(__clang__)
#include <intrin.h>
static inline int first_bit(uint64_t word) {
    unsigned long at;
    _BitScanForward64(&at, word);
    return (int)at;
}
#else
static inline int first_bit(uint64_t word) { return __builtin_ctzll(word); }
#endif

static inline size_t count_bits(uint64_t word) {
    size_t count = 0;
    for (; word; word &= word - 1) count++; /* there are few */
    return count;
}

typedef struct {
    uint64_t delimiter, quote, lf, cr;
    uint64_t beyond_ascii, nul;
} Masks;

/* Bit i of the result: the XOR of bits 0 to i of `word`. Of quotes: the byte is inside them, or opens them. */
static inline uint64_t prefix_xor(uint64_t word) {
    word ^= word << 1;
    word ^= word << 2;
    word ^= word << 4;
    word ^= word << 8;
    word ^= word << 16;
    word ^= word << 32;
    return word;
}

#if defined(LOADER_SSE2)

static inline uint64_t equal_to(const __m128i *piece, uint8_t byte) {
    const __m128i wanted = _mm_set1_epi8((char)byte);
    uint64_t bits = 0;
    for (int i = 0; i < 4; i++)
        bits |= (uint64_t)(uint16_t)_mm_movemask_epi8(_mm_cmpeq_epi8(piece[i], wanted)) << (16 * i);
    return bits;
}

/* The masks of the 64 bytes at `data`. `quote` is a byte that cannot occur as a quote where there is none: then its
   mask is to be ignored. */
static inline Masks masks_of(const uint8_t *data, uint8_t delimiter, uint8_t quote) {
    __m128i piece[4];
    uint64_t high = 0;
    for (int i = 0; i < 4; i++) {
        piece[i] = _mm_loadu_si128((const __m128i *)(data + 16 * i));
        high |= (uint64_t)(uint16_t)_mm_movemask_epi8(piece[i]) << (16 * i);
    }
    Masks m = {equal_to(piece, delimiter), equal_to(piece, quote), equal_to(piece, '\n'), equal_to(piece, '\r'),
               high, equal_to(piece, 0)};
    return m;
}

#elif defined(LOADER_NEON)

static inline uint64_t gathered(const uint8x16_t *hits) {
    static const uint8_t weights[16] = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
    const uint8x16_t bit = vld1q_u8(weights);
    uint8x16_t low = vpaddq_u8(vandq_u8(hits[0], bit), vandq_u8(hits[1], bit));
    uint8x16_t high = vpaddq_u8(vandq_u8(hits[2], bit), vandq_u8(hits[3], bit));
    uint8x16_t sums = vpaddq_u8(low, high);
    sums = vpaddq_u8(sums, sums);
    return vgetq_lane_u64(vreinterpretq_u64_u8(sums), 0);
}

static inline uint64_t equal_to(const uint8x16_t *piece, uint8_t byte) {
    const uint8x16_t wanted = vdupq_n_u8(byte);
    uint8x16_t hits[4];
    for (int i = 0; i < 4; i++) hits[i] = vceqq_u8(piece[i], wanted);
    return gathered(hits);
}

static inline Masks masks_of(const uint8_t *data, uint8_t delimiter, uint8_t quote) {
    uint8x16_t piece[4], high[4];
    for (int i = 0; i < 4; i++) {
        piece[i] = vld1q_u8(data + 16 * i);
        high[i] = vcgeq_u8(piece[i], vdupq_n_u8(0x80));
    }
    Masks m = {equal_to(piece, delimiter), equal_to(piece, quote), equal_to(piece, '\n'), equal_to(piece, '\r'),
               gathered(high), equal_to(piece, 0)};
    return m;
}

#else

static inline Masks masks_of(const uint8_t *data, uint8_t delimiter, uint8_t quote) {
    Masks m = {0, 0, 0, 0, 0, 0};
    for (int i = 0; i < 64; i++) {
        const uint64_t bit = (uint64_t)1 << i;
        const uint8_t byte = data[i];
        if (byte == delimiter) m.delimiter |= bit;
        if (byte == quote) m.quote |= bit;
        if (byte == '\n') m.lf |= bit;
        if (byte == '\r') m.cr |= bit;
        if (byte >= 0x80) m.beyond_ascii |= bit;
        if (byte == 0) m.nul |= bit;
    }
    return m;
}

#endif

/* The 64 bytes from `base` on; the last ones of the data are copied to `copy`, with zeros after them. `within`: which of
   them are the data's. */
static inline const uint8_t *word_at(const uint8_t *data, size_t size, size_t base, uint8_t copy[64], uint64_t *within) {
    const size_t left = size - base;
    *within = UINT64_MAX;
    if (left >= 64) return data + base;
    memset(copy, 0, 64);
    memcpy(copy, data + base, left);
    *within >>= 64 - left;
    return copy;
}

#endif
