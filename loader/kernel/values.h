/* One field's text → the bytes of its value in binary COPY.

   Each function is sure of what it takes: PostgreSQL reads the same text as the same value, whatever DateStyle and
   locale say. It returns 0 for everything else, and the record goes to another lane. The bytes are those of the types'
   `send` functions (PostgreSQL's source, src/backend/utils/adt), in network byte order. None reads past `text + size`. */
#ifndef LOADER_VALUES_H
#define LOADER_VALUES_H

#include "floats.h"
#include "masks.h"

#include <locale.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if defined(__APPLE__)
#include <xlocale.h>
#endif

#define EPOCH 719162 /* days from 0001-01-01 to 1970-01-01 */
#define EPOCH_OF_POSTGRES 730119 /* days from 0001-01-01 to 2000-01-01 */
#define MICROSECONDS_OF_DAY INT64_C(86400000000)

static const uint64_t POWERS[20] = {
    UINT64_C(1), UINT64_C(10), UINT64_C(100), UINT64_C(1000), UINT64_C(10000), UINT64_C(100000), UINT64_C(1000000),
    UINT64_C(10000000), UINT64_C(100000000), UINT64_C(1000000000), UINT64_C(10000000000), UINT64_C(100000000000),
    UINT64_C(1000000000000), UINT64_C(10000000000000), UINT64_C(100000000000000), UINT64_C(1000000000000000),
    UINT64_C(10000000000000000), UINT64_C(100000000000000000), UINT64_C(1000000000000000000),
    UINT64_C(10000000000000000000)};

static inline void put16(uint8_t *out, uint32_t value) {
    out[0] = (uint8_t)(value >> 8);
    out[1] = (uint8_t)value;
}

#if defined(__GNUC__) && defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
static inline void put32(uint8_t *out, uint32_t value) {
    value = __builtin_bswap32(value);
    memcpy(out, &value, 4);
}

static inline void put64(uint8_t *out, uint64_t value) {
    value = __builtin_bswap64(value);
    memcpy(out, &value, 8);
}
#else
static inline void put32(uint8_t *out, uint32_t value) {
    put16(out, value >> 16);
    put16(out + 2, value);
}

static inline void put64(uint8_t *out, uint64_t value) {
    put32(out, (uint32_t)(value >> 32));
    put32(out + 4, (uint32_t)value);
}
#endif

static inline uint32_t swap32(uint32_t value) {
    return value >> 24 | (value >> 8 & 0xFF00) | (value << 8 & 0xFF0000) | value << 24;
}

static inline int digit_of(uint8_t byte) { return (uint8_t)(byte - '0'); } /* over 9: it is none */

static inline uint64_t little_endian(uint64_t word) {
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    return __builtin_bswap64(word);
#else
    return word;
#endif
}

/* Whether a text is that word, of small letters, in any case. */
static inline int is_word(const uint8_t *text, size_t size, const char *word) {
    if (size != strlen(word)) return 0;
    for (size_t i = 0; i < size; i++)
        if ((text[i] | 0x20) != (uint8_t)word[i]) return 0;
    return 1;
}

/* Eight bytes as one word whose first byte is its lowest. Past the `readable` ones come zeros. */
INLINE uint64_t word_of(const uint8_t *text, size_t readable) {
    uint64_t word = 0;
    if (readable >= 8) memcpy(&word, text, 8);
    else for (size_t i = 0; i < readable; i++) memcpy((uint8_t *)&word + i, text + i, 1);
    return little_endian(word);
}

#define EACH_BYTE UINT64_C(0x0101010101010101)

/* Whether each byte of a word is 0 to 9. */
INLINE int are_nine_at_most(uint64_t word) {
    return !(((word + 0x76 * EACH_BYTE) | word) & 0x80 * EACH_BYTE);
}

/* Eight bytes of 0 to 9 as a number, the lowest byte its first digit. */
INLINE uint64_t sum_of_digits(uint64_t word) {
    word = (word * 10 + (word >> 8)) & UINT64_C(0x00FF00FF00FF00FF);   /* pairs */
    word = (word * 100 + (word >> 16)) & UINT64_C(0x0000FFFF0000FFFF); /* fours */
    return ((word * 10000) + (word >> 32)) & UINT64_C(0x00000000FFFFFFFF);
}

/* One to eight digits as a number; UINT64_MAX where a byte is no digit. */
INLINE uint64_t up_to_eight_digits(const uint8_t *text, size_t size, size_t readable) {
    const uint64_t word = (word_of(text, readable) ^ 0x30 * EACH_BYTE) << (8 * (8 - size)); /* with zeros before it */
    return are_nine_at_most(word) ? sum_of_digits(word) : UINT64_MAX;
}

/* At most 19 digits as a number; 0 where there is none, more, or another byte. */
static inline int read_digits(const uint8_t *text, size_t size, size_t readable, uint64_t *value) {
    uint64_t read = 0;
    if (size - 1 < 8) return (*value = up_to_eight_digits(text, size, readable)) != UINT64_MAX;
    if (size - 1 > 18) return 0;
    do {
        const size_t take = (size - 1) % 8 + 1;
        const uint64_t piece = up_to_eight_digits(text, take, readable);
        if (piece == UINT64_MAX) return 0;
        read = read * POWERS[8] + piece;
        text += take;
        size -= take;
        readable -= take;
    } while (size);
    *value = read;
    return 1;
}

/* An integer within `limit` (of which -limit - 1 is allowed, too). `strict`: in the one spelling that gives it back. */
INLINE int read_integer(const uint8_t *text, size_t size, size_t readable, int64_t limit, int strict,
                               int64_t *value) {
    uint64_t number;
    const int negative = size && text[0] == '-';
    if (negative || (size && text[0] == '+' && !strict)) text++, size--, readable--;
    if (!read_digits(text, size, readable, &number)) return 0;
    if (strict && (size > 18 || (text[0] == '0' && (size > 1 || negative)))) return 0;
    if (number > (uint64_t)limit + (uint64_t)negative) return 0;
    *value = negative ? (int64_t)(0 - number) : (int64_t)number;
    return 1;
}

/* --- numeric: groups of four digits around the point */

#define NUMERIC_DIGITS 64 /* on either side of the point; longer ones are left to the server */
#define NUMERIC_SIZE (8 + 2 * (2 * NUMERIC_DIGITS / 4))

typedef struct {
    int negative;
    const uint8_t *whole, *fraction;
    size_t whole_size, fraction_size; /* digits, leading zeros of the whole part left out */
} Decimal;

static inline int are_digits(const uint8_t *text, size_t size) {
    for (size_t i = 0; i < size; i++)
        if (digit_of(text[i]) > 9) return 0;
    return 1;
}

/* The parts of a number without an exponent; whether they are digits is for `put_numeric` to find. */
static inline int split_decimal(const uint8_t *text, size_t size, int strict, Decimal *decimal) {
    decimal->negative = size && text[0] == '-';
    if (decimal->negative || (size && text[0] == '+' && !strict)) text++, size--;
    size_t given = 0;
    while (given < size && text[given] != '.') given++;
    decimal->fraction = text + given + 1;
    decimal->fraction_size = given < size ? size - given - 1 : 0;
    if (!given && !decimal->fraction_size) return 0;
    if (strict && (!given || (given > 1 && text[0] == '0') || (given < size && !decimal->fraction_size))) return 0;
    decimal->whole = text;
    decimal->whole_size = given;
    while (decimal->whole_size && *decimal->whole == '0') decimal->whole++, decimal->whole_size--;
    return decimal->whole_size <= NUMERIC_DIGITS && decimal->fraction_size <= NUMERIC_DIGITS;
}

/* Whether numeric(precision,scale) holds it, after the server has rounded it to its scale. */
static inline int fits_numeric(const Decimal *decimal, int precision, int scale) {
    const size_t room = (size_t)(precision - scale);
    if (decimal->fraction_size <= (size_t)scale) return decimal->whole_size <= room;
    return decimal->whole_size < room; /* to be rounded, maybe up: one digit has to be left */
}

/* The groups of four digits of a number that is small enough, at the end of `groups`. Returns the first one. */
static inline uint16_t *put_groups(uint64_t number, size_t count, uint16_t *end) {
    while (count--) {
        *--end = (uint16_t)(number % 10000);
        number /= 10000;
    }
    return end;
}

/* The same of digits of any number, of which the first group holds what is over. */
static inline void read_groups(const uint8_t *text, size_t size, size_t first, uint16_t *groups) {
    for (size_t at = 0, take = first; at < size; at += take, take = 4) {
        uint32_t group = 0;
        for (size_t i = at; i < at + take; i++) group = group * 10 + (i < size ? (uint32_t)digit_of(text[i]) : 0);
        *groups++ = (uint16_t)group;
    }
}

/* numeric_send's form, with `scale` digits shown after the point. `out` has room for NUMERIC_SIZE bytes. Returns
   their number, or -1 where a byte is no digit. */
static inline int64_t put_numeric(const Decimal *decimal, size_t scale, uint8_t *out) {
    uint16_t groups[2 * NUMERIC_DIGITS / 4];
    const size_t whole = (decimal->whole_size + 3) / 4, fraction = (decimal->fraction_size + 3) / 4;
    size_t count = whole + fraction, first = 0;
    if (decimal->whole_size <= 16 && decimal->fraction_size <= 16) {
        uint64_t number = 0;
        if (decimal->whole_size && !read_digits(decimal->whole, decimal->whole_size, decimal->whole_size, &number)) return -1;
        put_groups(number, whole, groups + whole);
        number = 0;
        if (decimal->fraction_size && !read_digits(decimal->fraction, decimal->fraction_size, decimal->fraction_size, &number)) return -1;
        put_groups(number * POWERS[4 * fraction - decimal->fraction_size], fraction, groups + count);
    } else {
        if (!are_digits(decimal->whole, decimal->whole_size)) return -1;
        if (!are_digits(decimal->fraction, decimal->fraction_size)) return -1;
        read_groups(decimal->whole, decimal->whole_size, (decimal->whole_size + 3) % 4 + 1, groups);
        read_groups(decimal->fraction, decimal->fraction_size, 4, groups + whole);
    }
    while (count && !groups[count - 1]) count--;
    while (first < count && !groups[first]) first++;
    const size_t kept = count - first;
    put16(out, (uint32_t)kept);
    put16(out + 2, kept ? (uint32_t)((int)whole - 1 - (int)first) & 0xFFFF : 0);
    put16(out + 4, decimal->negative && kept ? 0x4000 : 0);
    put16(out + 6, (uint32_t)scale);
    for (size_t i = 0; i < kept; i++) put16(out + 8 + 2 * i, groups[first + i]);
    return (int64_t)(8 + 2 * kept);
}

/* Where the first point is among eight bytes, 8 where there is none. */
INLINE size_t point_in(uint64_t word) {
    const uint64_t odd = word ^ '.' * EACH_BYTE, found = (odd - EACH_BYTE) & ~odd & 0x80 * EACH_BYTE;
    return found ? (size_t)first_bit(found) / 8 : 8; /* its lowest bit is right */
}

/* The four groups of a number of up to eight digits on either side of its point. */
INLINE uint64_t groups_of(uint32_t whole, uint32_t fraction) {
    return (uint64_t)(whole / 10000) << 48 | (uint64_t)(whole % 10000) << 32 | (fraction / 10000) << 16 | fraction % 10000;
}

/* Up to eight digits on either side of a point: the number before it, and all as groups. 0 where there are more, or other
   bytes. `given` and `behind`: how many digits there are. */
INLINE int read_short(const uint8_t *text, size_t size, size_t readable, size_t *given, size_t *behind, uint64_t *whole,
                      uint64_t *groups) {
    const uint64_t word = word_of(text, readable);
    size_t point = point_in(word);
    if (size > 1 && size <= 8 && point < size && size - point <= 5) { /* one word of digits, at most four behind the point */
        const uint64_t digits = word ^ 0x30 * EACH_BYTE, before = ((uint64_t)1 << (8 * point)) - 1;
        const uint64_t joined = ((digits & before) | (digits >> 8 & ~before)) << (8 * (8 - size) + 8);
        if (!are_nine_at_most(joined)) return 0;
        *given = point;
        *behind = size - point - 1;
        const uint64_t scaled = sum_of_digits(joined) * POWERS[4 - *behind];
        *whole = scaled / 10000;
        *groups = groups_of((uint32_t)*whole, 0) | (scaled - *whole * 10000) << 16;
        return 1;
    }
    if (point == 8 && size > 8 && text[8] != '.') return 0;
    if (point > size) point = size;
    *given = point;
    *behind = point < size ? size - point - 1 : 0;
    uint64_t fraction = 0;
    *whole = 0;
    if (*behind > 8) return 0;
    if (point && (*whole = up_to_eight_digits(text, point, readable)) == UINT64_MAX) return 0;
    if (*behind && (fraction = up_to_eight_digits(text + point + 1, *behind, readable - point - 1)) == UINT64_MAX) return 0;
    *groups = groups_of((uint32_t)*whole, (uint32_t)(fraction * POWERS[8 - *behind]));
    return 1;
}

enum { NOT_SHORT = -2 };

/* The same for a number of at most eight digits on either side of the point, in one go: its four groups are one word.
   `room`: digits of the type before its point, `scale` behind it; `room` is negative where the type has no bounds. Returns
   the number of bytes, -1 where it is not sure, NOT_SHORT where the number may be longer. */
INLINE int64_t put_short_numeric(const uint8_t *text, size_t size, size_t readable, int strict, int room, int scale,
                                 uint8_t *out) {
    uint64_t whole, groups;
    size_t given, behind;
    const int negative = size && text[0] == '-';
    if (negative || (size && text[0] == '+' && !strict)) text++, size--, readable--;
    if (!read_short(text, size, readable, &given, &behind, &whole, &groups)) return NOT_SHORT;
    if (!given && !behind) return -1;
    if (strict) {
        if (!given || (given > 1 && text[0] == '0') || (given < size && !behind)) return -1;
        if (negative && !groups) return -1; /* -0 would come back as 0 */
    }
    if (room >= 0) {
        if (behind > (size_t)scale && !room--) return -1; /* to be rounded, maybe up: one digit has to be left */
        if (room < 8 && whole >= POWERS[room]) return -1;
    }
    const uint64_t shown = scale > (int)behind ? (uint64_t)scale : behind;
    if (!groups) {
        put64(out, shown);
        return 8;
    }
    const int first = leading_zeros(groups) / 16, past = 4 - first_bit(groups) / 16;
    put64(out, (uint64_t)(past - first) << 48 | (uint64_t)((1 - first) & 0xFFFF) << 32 | (negative ? 0x40000000u : 0) | shown);
    put64(out + 8, groups << (16 * first));
    return 8 + 2 * (past - first);
}

/* --- floats, correctly rounded */

#if defined(_WIN32)
typedef _locale_t Locale;
#define c_locale() _create_locale(LC_NUMERIC, "C")
#define strtod_l _strtod_l
#define strtof_l _strtof_l
#else
typedef locale_t Locale;
#define c_locale() newlocale(LC_NUMERIC_MASK, "C", (locale_t)0)
#endif

#define FLOAT_TEXT 120 /* bytes of the longest text of a float that is read here */

typedef struct {
    uint64_t digits; /* without the point */
    int exponent;    /* of ten */
    int negative, simple; /* simple: digits and exponent say it all */
} Scanned;

/* Digits from `*at` on, appended to those in `scanned`. Returns how many they are. */
static inline size_t scan_digits(const uint8_t **at, const uint8_t *end, size_t *significant, Scanned *scanned) {
    const uint8_t *begin = *at, *text = begin;
    while (end - text >= 8 && *significant <= 11) {
        const uint64_t word = word_of(text, 8) ^ 0x30 * EACH_BYTE;
        if (!are_nine_at_most(word) || (!*significant && !(word & 0xFF))) break;
        scanned->digits = scanned->digits * POWERS[8] + sum_of_digits(word);
        *significant += 8;
        text += 8;
    }
    for (; text < end; text++) {
        const int digit = digit_of(*text);
        if (digit > 9) break;
        *significant += *significant || digit;
        if (*significant <= 19) scanned->digits = scanned->digits * 10 + (uint64_t)digit;
    }
    *at = text;
    return (size_t)(text - begin);
}

/* The shape of a number in decimal notation, and its parts. */
static inline int scan_float(const uint8_t *text, size_t size, int strict, Scanned *scanned) {
    const uint8_t *end = text + size;
    size_t fraction = 0, significant = 0;
    int point = 0, exponent = 0;
    scanned->digits = 0;
    scanned->negative = size && *text == '-';
    if (scanned->negative || (size && *text == '+' && !strict)) text++;
    const uint8_t *begin = text;
    const size_t whole = scan_digits(&text, end, &significant, scanned);
    if (text < end && *text == '.') {
        point = 1;
        text++;
        fraction = scan_digits(&text, end, &significant, scanned);
    }
    if (!(whole + fraction)) return 0;
    if (strict) {
        if (!whole || (point && !fraction) || (whole > 1 && *begin == '0')) return 0;
        if (!((whole <= 7 && fraction <= 8) || (whole == 1 && fraction <= 14) || (!fraction && whole <= 15))) return 0;
    }
    if (text < end) {
        if ((*text | 0x20) != 'e') return 0;
        text++;
        int down = 0;
        if (text < end && (*text == '-' || *text == '+')) down = *text++ == '-';
        const size_t given = (size_t)(end - text);
        if (!given || given > (strict ? 2 : 3)) return 0;
        for (; text < end; text++) {
            if (digit_of(*text) > 9) return 0;
            exponent = exponent * 10 + digit_of(*text);
        }
        if (down) exponent = -exponent;
    }
    scanned->exponent = exponent - (int)fraction;
    scanned->simple = significant <= 19;
    return 1;
}

/* The words that are floats: 1 for NaN, 2 for infinity, 3 for the one below 0; 0 for others. */
static inline int read_float_word(const uint8_t *text, size_t size) {
    if (is_word(text, size, "nan")) return 1;
    const int negative = size && text[0] == '-';
    if (negative || (size && text[0] == '+')) text++, size--;
    return is_word(text, size, "inf") || is_word(text, size, "infinity") ? 2 + negative : 0;
}

/* With at most 53 bits of digits and a power of ten that a double holds exactly, one operation rounds once. */
static const double EXACT[23] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                                 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
static const float EXACT_SINGLE[11] = {1e0f, 1e1f, 1e2f, 1e3f, 1e4f, 1e5f, 1e6f, 1e7f, 1e8f, 1e9f, 1e10f};

static inline int copied(const uint8_t *text, size_t size, char *buffer) {
    if (size >= FLOAT_TEXT) return 0;
    memcpy(buffer, text, size);
    buffer[size] = 0;
    return 1;
}

static inline int read_double(const uint8_t *text, size_t size, int strict, Locale locale, double *value) {
    Scanned s;
    char buffer[FLOAT_TEXT], *end;
    if (!scan_float(text, size, strict, &s)) {
        static const uint64_t words[4] = {0, UINT64_C(0x7FF8) << 48, UINT64_C(0x7FF0) << 48, UINT64_C(0xFFF0) << 48};
        const int word = strict ? 0 : read_float_word(text, size);
        memcpy(value, &words[word], 8);
        return word;
    }
#if !defined(__FLT_EVAL_METHOD__) || __FLT_EVAL_METHOD__ == 0
    if (s.simple && s.digits <= (UINT64_C(1) << 53) && s.exponent >= -22 && s.exponent <= 22) {
        const double digits = (double)s.digits;
        const double read = s.exponent < 0 ? digits / EXACT[-s.exponent] : digits * EXACT[s.exponent];
        *value = s.negative ? -read : read;
        return 1;
    }
#endif
    uint64_t bits;
    if (s.simple && round_decimal(s.digits, s.exponent, &DOUBLE_FORM, &bits)) {
        bits |= (uint64_t)s.negative << 63;
        memcpy(value, &bits, 8);
        return 1;
    }
    if (!copied(text, size, buffer)) return 0;
    *value = strtod_l(buffer, &end, locale);
    if (end != buffer + size) return 0;
    const double magnitude = *value < 0 ? -*value : *value;
    return magnitude >= 2.2250738585072014e-308 && magnitude <= 1.7976931348623157e308; /* neither 0, tiny nor infinite */
}

static inline int read_single(const uint8_t *text, size_t size, int strict, Locale locale, float *value) {
    Scanned s;
    char buffer[FLOAT_TEXT], *end;
    if (!scan_float(text, size, strict, &s)) {
        static const uint32_t words[4] = {0, 0x7FC00000u, 0x7F800000u, 0xFF800000u};
        const int word = strict ? 0 : read_float_word(text, size);
        memcpy(value, &words[word], 4);
        return word;
    }
#if !defined(__FLT_EVAL_METHOD__) || __FLT_EVAL_METHOD__ == 0
    if (s.simple && s.digits <= (UINT64_C(1) << 24) && s.exponent >= -10 && s.exponent <= 10) {
        const float digits = (float)s.digits;
        const float read = s.exponent < 0 ? digits / EXACT_SINGLE[-s.exponent] : digits * EXACT_SINGLE[s.exponent];
        *value = s.negative ? -read : read;
        return 1;
    }
#endif
    uint64_t bits;
    if (s.simple && round_decimal(s.digits, s.exponent, &SINGLE_FORM, &bits)) {
        const uint32_t all = (uint32_t)bits | (uint32_t)s.negative << 31;
        memcpy(value, &all, 4);
        return 1;
    }
    if (!copied(text, size, buffer)) return 0;
    *value = strtof_l(buffer, &end, locale);
    if (end != buffer + size) return 0;
    const float magnitude = *value < 0 ? -*value : *value;
    return magnitude >= 1.17549435e-38f && magnitude <= 3.40282347e38f;
}

static inline void put_double(uint8_t *out, double value) {
    uint64_t bits;
    memcpy(&bits, &value, 8);
    put64(out, bits);
}

static inline void put_single(uint8_t *out, float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    put32(out, bits);
}

/* --- boolean */

static inline int read_boolean(const uint8_t *text, size_t size, int strict, int *value) {
    if (size == 1) {
        const uint8_t byte = strict ? text[0] : (text[0] | 0x20);
        if (byte == 't' || (!strict && (text[0] == '1' || byte == 'y'))) return *value = 1, 1;
        if (byte == 'f' || (!strict && (text[0] == '0' || byte == 'n'))) return *value = 0, 1;
        return 0;
    }
    if (strict) { /* true, True, TRUE: a mixed spelling is a text */
        static const char *const spellings[6] = {"true", "True", "TRUE", "false", "False", "FALSE"};
        for (int i = 0; i < 6; i++)
            if (size == strlen(spellings[i]) && !memcmp(text, spellings[i], size)) return *value = i < 3, 1;
        return 0;
    }
    if (is_word(text, size, "true") || is_word(text, size, "yes") || is_word(text, size, "on")) return *value = 1, 1;
    if (is_word(text, size, "false") || is_word(text, size, "no") || is_word(text, size, "off")) return *value = 0, 1;
    return 0;
}

/* --- dates and times, in the one spelling that no DateStyle reads otherwise */

static inline int two_digits(const uint8_t *text) {
    const int tens = digit_of(text[0]), ones = digit_of(text[1]);
    return tens > 9 || ones > 9 ? -1 : tens * 10 + ones;
}

/* YYYY-MM-DD, ten bytes: days from 0001-01-01, or -1. */
INLINE int32_t read_day(const uint8_t *text, int *year_read) {
    static const int before[13] = {0, 0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334};
    static const int lasts[13] = {0, 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    const uint64_t dashed = word_of(text, 8) ^ UINT64_C(0x2D30302D30303030); /* 0000-00- */
    const uint64_t ones = (uint64_t)(text[8] ^ 0x30) << 48 | (uint64_t)(text[9] ^ 0x30) << 56;
    uint64_t word = (dashed & 0xFFFFFFFF) | (dashed >> 40 & 0xFFFF) << 32 | ones;
    if (dashed & UINT64_C(0xFF0000FF00000000) || !are_nine_at_most(word)) return -1;
    word = (word * 10 + (word >> 8)) & UINT64_C(0x00FF00FF00FF00FF);
    const int century = (int)(word & 0xFF), of_it = (int)(word >> 16 & 0xFF), year = century * 100 + of_it;
    const int month = (int)(word >> 32 & 0xFF), day = (int)(word >> 48);
    if (month < 1 || month > 12) return -1;
    const int leap = !((of_it ? of_it : century) & 3);
    if (year < 1 || day < 1 || day > lasts[month] + (leap && month == 2)) return -1;
    const int past = year - 1, centuries = of_it ? century : century - 1; /* that are over */
    *year_read = year;
    return 365 * past + (past >> 2) - centuries + (centuries >> 2) + before[month] + (leap && month > 2) + day - 1;
}

/* HH:MM[:SS[.ffffff]] from the front of a text: microseconds, and the bytes that it takes; -1 where there is none. */
INLINE int64_t read_clock(const uint8_t *text, size_t size, size_t *used) {
    if (size < 5 || text[2] != ':') return -1;
    const int hour = two_digits(text), minute = two_digits(text + 3);
    int64_t second = 0, fraction = 0;
    size_t at = 5;
    if (hour < 0 || hour > 23 || minute < 0 || minute > 59) return -1;
    if (size > at && text[at] == ':') {
        if (size < at + 3) return -1;
        second = two_digits(text + at + 1);
        if (second < 0 || second > 59) return -1;
        at += 3;
        if (size > at && text[at] == '.') {
            size_t digits = 0;
            for (at++; at < size && digit_of(text[at]) <= 9; at++, digits++) {
                if (digits == 6) return -1;
                fraction = fraction * 10 + digit_of(text[at]);
            }
            if (!digits) return -1;
            fraction *= (int64_t)POWERS[6 - digits];
        }
    }
    *used = at;
    return ((hour * 60 + minute) * 60 + second) * INT64_C(1000000) + fraction;
}

/* An offset from UTC, all that is left of a text, maybe behind a blank: Z, UTC, +HH, +HHMM or +HH:MM, in microseconds. */
static inline int read_offset(const uint8_t *text, size_t size, int64_t *offset) {
    if (size == 1 && text[0] == 'Z') return *offset = 0, 1;
    if (size > 1 && text[0] == ' ') {
        text++, size--;
        if (size == 3 && !memcmp(text, "UTC", 3)) return *offset = 0, 1; /* in each set of abbreviations the same */
    }
    if (size < 3 || (text[0] != '+' && text[0] != '-')) return 0;
    const int hour = two_digits(text + 1);
    int minute = 0;
    if (hour < 0 || hour > 15) return 0; /* PostgreSQL refuses displacements of 16 hours and more */
    if (size == 5) minute = two_digits(text + 3);
    else if (size == 6 && text[3] == ':') minute = two_digits(text + 4);
    else if (size != 3) return 0;
    if (minute < 0 || minute > 59) return 0;
    *offset = (hour * 60 + minute) * INT64_C(60000000);
    if (text[0] == '-') *offset = -*offset;
    return 1;
}

typedef enum { UNREADABLE, WITH_OFFSET, WITHOUT_OFFSET } Timestamp;

/* A timestamp as it is shown: microseconds from 0001-01-01, its year, and its offset in microseconds. `strict`: a day alone
   is no timestamp. */
INLINE Timestamp read_timestamp(const uint8_t *text, size_t size, int strict, int64_t *value, int *year, int64_t *offset) {
    if (size < 10) return UNREADABLE;
    const int32_t day = read_day(text, year);
    size_t used = 0;
    if (day < 0) return UNREADABLE;
    *value = day * MICROSECONDS_OF_DAY;
    if (size == 10) return strict ? UNREADABLE : WITHOUT_OFFSET;
    if (text[10] != ' ' && text[10] != 'T') return UNREADABLE;
    const int64_t clock = read_clock(text + 11, size - 11, &used);
    if (clock < 0) return UNREADABLE;
    used += 11;
    *value += clock;
    if (used == size) return WITHOUT_OFFSET;
    return read_offset(text + used, size - used, offset) ? WITH_OFFSET : UNREADABLE;
}

/* --- uuid, and hexadecimal bytea */

static inline int nibble(uint8_t byte) {
    if (digit_of(byte) <= 9) return digit_of(byte);
    const uint8_t letter = (uint8_t)((byte | 0x20) - 'a');
    return letter < 6 ? letter + 10 : -1;
}

/* Eight hexadecimal digits as four bytes. 0 where a byte is none, or where `strict`, and a letter is not small. */
INLINE int put_hexadecimal(uint64_t word, int strict, uint8_t *out) {
    const uint64_t letters = word >> 6 & EACH_BYTE; /* 1: none of the digits */
    /* 0x30 to 0x39, 0x41 to 0x46, 0x61 to 0x66 */
    uint64_t bad = (word & (0xF0 * EACH_BYTE ^ letters << 5)) ^ (0x30 * EACH_BYTE + (letters << 4));
    uint64_t nibbles = (word & 0x0F * EACH_BYTE) + 9 * letters;
    bad |= nibbles & 0xF0 * EACH_BYTE;                                        /* 15 at most */
    bad |= ((nibbles + 6 * EACH_BYTE) & 0x10 * EACH_BYTE) ^ letters << 4;     /* letters 10 at least, digits 9 at most */
    if (strict) bad |= letters & ~(word >> 5);
    nibbles = (nibbles << 4 | nibbles >> 8) & UINT64_C(0x00FF00FF00FF00FF);
    nibbles = (nibbles | nibbles >> 8) & UINT64_C(0x0000FFFF0000FFFF);
    put32(out, swap32((uint32_t)(nibbles | nibbles >> 16)));
    return !bad;
}

INLINE int read_uuid(const uint8_t *text, size_t size, int strict, uint8_t *out) {
    if (size != 36 || text[8] != '-' || text[13] != '-' || text[18] != '-' || text[23] != '-') return 0;
    const uint64_t four = UINT64_C(0xFFFFFFFF); /* digits of a word of eight */
    return put_hexadecimal(word_of(text, 8), strict, out) &
           put_hexadecimal((word_of(text + 9, 8) & four) | word_of(text + 14, 8) << 32, strict, out + 4) &
           put_hexadecimal((word_of(text + 19, 8) & four) | word_of(text + 24, 8) << 32, strict, out + 8) &
           put_hexadecimal(word_of(text + 28, 8), strict, out + 12);
}

/* \x and pairs of digits; returns the number of bytes, or -1. */
static inline int64_t read_bytea(const uint8_t *text, size_t size, uint8_t *out) {
    if (size < 2 || text[0] != '\\' || text[1] != 'x' || size % 2) return -1;
    size_t at = 2;
    for (; size - at >= 8; at += 8, out += 4)
        if (!put_hexadecimal(word_of(text + at, 8), 0, out)) return -1;
    for (; at < size; at += 2) {
        const int high = nibble(text[at]), low = nibble(text[at + 1]);
        if (high < 0 || low < 0) return -1;
        *out++ = (uint8_t)(high << 4 | low);
    }
    return (int64_t)(size / 2 - 1);
}

/* --- text */

/* Valid UTF-8 as PostgreSQL has it: no surrogates, nothing overlong, nothing past U+10FFFF, no NUL (pg_utf8_islegal).
   Returns its number of characters, or -1. */
static inline int64_t count_utf8(const uint8_t *text, size_t size) {
    int64_t characters = 0;
    for (size_t at = 0; at < size; characters++) {
        const uint8_t byte = text[at];
        if (byte < 0x80) {
            if (!byte) return -1;
            at++;
            continue;
        }
        size_t more;
        uint8_t low = 0x80, high = 0xBF;
        if (byte >= 0xC2 && byte <= 0xDF) more = 1;
        else if (byte >= 0xE0 && byte <= 0xEF) {
            more = 2;
            if (byte == 0xE0) low = 0xA0;
            if (byte == 0xED) high = 0x9F;
        } else if (byte >= 0xF0 && byte <= 0xF4) {
            more = 3;
            if (byte == 0xF0) low = 0x90;
            if (byte == 0xF4) high = 0x8F;
        } else return -1;
        if (size - at <= more || text[at + 1] < low || text[at + 1] > high) return -1;
        for (size_t i = 2; i <= more; i++)
            if ((text[at + i] & 0xC0) != 0x80) return -1;
        at += more + 1;
    }
    return characters;
}

/* The characters of valid UTF-8. */
static inline size_t count_characters(const uint8_t *text, size_t size) {
    size_t count = 0;
    for (size_t i = 0; i < size; i++) count += (text[i] & 0xC0) != 0x80;
    return count;
}

#endif
