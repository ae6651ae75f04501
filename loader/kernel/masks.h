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

/* For what is called in one place for each field: its arguments are to stay in registers. */
#if defined(__GNUC__)
#define INLINE static inline __attribute__((always_inline))
#define NOINLINE __attribute__((noinline))
#elif defined(_MSC_VER)
#define INLINE static __forceinline
#define NOINLINE __declspec(noinline)
#else
#define INLINE static inline
#define NOINLINE
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

static inline uint64_t at_least(const uint8_t *data, uint8_t byte) {
    const __m128i wanted = _mm_set1_epi8((char)byte);
    uint64_t bits = 0;
    for (int i = 0; i < 4; i++) {
        const __m128i piece = _mm_loadu_si128((const __m128i *)(data + 16 * i));
        bits |= (uint64_t)(uint16_t)_mm_movemask_epi8(_mm_cmpeq_epi8(_mm_max_epu8(piece, wanted), piece)) << (16 * i);
    }
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

static inline uint64_t at_least(const uint8_t *data, uint8_t byte) {
    uint8x16_t hits[4];
    for (int i = 0; i < 4; i++) hits[i] = vcgeq_u8(vld1q_u8(data + 16 * i), vdupq_n_u8(byte));
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

/* Copies sixteen bytes. Returns the number of those up to the first `byte` and with it, or sixteen. */
static inline int copy_until(const uint8_t *from, uint8_t byte, uint8_t *to) {
#if defined(LOADER_SSE2)
    const __m128i piece = _mm_loadu_si128((const __m128i *)from);
    const int found = _mm_movemask_epi8(_mm_cmpeq_epi8(piece, _mm_set1_epi8((char)byte)));
    _mm_storeu_si128((__m128i *)to, piece);
    return found ? first_bit((uint64_t)found) + 1 : 16;
#elif defined(LOADER_NEON)
    const uint8x16_t piece = vld1q_u8(from), hits = vceqq_u8(piece, vdupq_n_u8(byte));
    const uint64_t found = vget_lane_u64(vreinterpret_u64_u8(vshrn_n_u16(vreinterpretq_u16_u8(hits), 4)), 0); /* four a byte */
    vst1q_u8(to, piece);
    return found ? first_bit(found) / 4 + 1 : 16;
#else
    for (int i = 0; i < 16; i++)
        if ((to[i] = from[i]) == byte) return i + 1;
    return 16;
#endif
}

/* --- quotes: regular ones stand around whole fields, or are doubled in them */

/* What a word has to know of the one before it. Where a record begins: `RECORD_START`. */
typedef struct {
    uint64_t inside;  /* all ones: it ended inside quotes */
    uint64_t border;  /* 1: a quote may open behind its last byte */
    uint64_t closing; /* 1: its last byte is a quote that closes */
    uint64_t quote;   /* 1: its last byte is a quote */
} Before;

#define RECORD_START {0, 1, 0, 0}

typedef struct {
    uint64_t quoted;    /* inside quotes, or opening them */
    uint64_t irregular; /* quotes in the middle of a field, or bytes behind such */
    uint64_t doubled;   /* quotes behind a quote */
} Quotes;

/* The quotes of a word, given its quotes, delimiters and line ends, and which bytes are the data's. */
static inline Quotes quotes_of_word(uint64_t quote, uint64_t others, uint64_t within, Before *before) {
    const uint64_t borders = others | quote;
    Quotes found = {before->inside, before->closing & ~borders & within, 0};
    if (quote) {
        found.quoted ^= prefix_xor(quote);
        const uint64_t opening = quote & found.quoted, closing = quote & ~found.quoted;
        found.irregular = (opening & ~(borders << 1 | before->border)) |
                          ((closing << 1 | before->closing) & ~borders & within);
        found.doubled = quote & (quote << 1 | before->quote);
        before->inside = (uint64_t)0 - (found.quoted >> 63);
        before->closing = closing >> 63;
    } else {
        before->closing = 0;
    }
    before->border = borders >> 63;
    before->quote = quote >> 63;
    return found;
}

/* --- UTF-8 */

/* Of the word before: the continuation bytes that it leaves due (bit i: of byte i), and its last byte where that allows
   but some bytes behind it. */
typedef struct {
    uint64_t due;
    uint8_t last;
} Unfinished;

#if defined(LOADER_SSE2) || defined(LOADER_NEON)

/* Whether a word is valid UTF-8 as PostgreSQL has it (pg_utf8_islegal), but for NUL and for characters that it leaves
   unfinished. `high`: its bytes beyond ASCII. */
static inline int is_utf8(const uint8_t *word, uint64_t high, Unfinished *before) {
    if (!(high | before->due)) return 1;
    const uint64_t two = at_least(word, 0xC0), three = at_least(word, 0xE0); /* the first bytes of so many and more */
    const uint64_t four = three ? at_least(word, 0xF0) : 0;
    uint64_t bad = (high & ~two) ^ (two << 1 | three << 2 | four << 3 | before->due);
    bad |= two & ~at_least(word, 0xC2); /* overlong */
    if (three || before->last >= 0xE0) {
        uint64_t after[4]; /* behind E0, ED, F0, F4 */
        static const uint8_t firsts[4] = {0xE0, 0xED, 0xF0, 0xF4};
        for (int i = 0; i < 4; i++)
            after[i] = (at_least(word, firsts[i]) & ~at_least(word, (uint8_t)(firsts[i] + 1))) << 1 | (before->last == firsts[i]);
        const uint64_t from_90 = at_least(word, 0x90), from_a0 = at_least(word, 0xA0);
        bad |= (after[0] & ~from_a0) | (after[1] & from_a0) | (after[2] & ~from_90) | (after[3] & from_90);
        bad |= at_least(word, 0xF5);
    }
    before->due = two >> 63 | three >> 62 | four >> 61;
    before->last = word[63];
    return !bad;
}

#else

/* Whether it is known to be: here, field by field is cheaper (`count_utf8`). */
static inline int is_utf8(const uint8_t *word, uint64_t high, Unfinished *before) {
    (void)word, (void)before;
    return !high;
}

#endif

#endif
