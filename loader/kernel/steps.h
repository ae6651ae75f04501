/* The steps of a column's `transform` chain, on one text: what loader/convert/steps.py does to all values at once.

   A step that is not surely the same here (letters that change their number of bytes, rare currencies) is in doubt, and
   the record goes to another lane. No step makes a text longer, except `map`, whose texts are the program's own. */
#ifndef LOADER_STEPS_H
#define LOADER_STEPS_H

#include <stddef.h>

#include "values.h"

typedef enum { STRIP, LOWER, UPPER, STRIP_CURRENCY, NULL_IF, REPLACE, MAP, STEP_KINDS } StepKind;

typedef struct {
    uint8_t kind;
    uint32_t text_count; /* NULL_IF: the texts. REPLACE: old and new. MAP: old and new, in turn. */
    const Text *texts;
} Step;

/* A text on its way through the steps: in the input, in the scratch, or one of the program's. */
typedef struct {
    const uint8_t *text;
    size_t size, readable; /* readable: bytes from `text` on that may be read */
    int is_null;
} Worked;

/* Where a step has written: SPILL more bytes may be read. */
static inline void move_to(Worked *worked, const uint8_t *out, size_t size) {
    worked->text = out;
    worked->size = size;
    worked->readable = size + SPILL;
}

static inline int is_ascii_blank(uint8_t byte) { return byte == ' ' || (byte >= 9 && byte <= 13) || (byte >= 28 && byte <= 31); }

/* Bytes of the blank beyond ASCII that `text`, of valid UTF-8, begins with; 0 where it begins with none. They are those of
   Python's str.isspace. */
static inline size_t wide_blank(const uint8_t *text, size_t size) {
    if (size >= 2 && text[0] == 0xC2) return text[1] == 0x85 || text[1] == 0xA0 ? 2 : 0;
    if (size < 3) return 0;
    const uint8_t second = text[1], third = text[2];
    switch (text[0]) {
    case 0xE1: return second == 0x9A && third == 0x80 ? 3 : 0; /* U+1680 */
    case 0xE2:
        if (second == 0x81) return third == 0x9F ? 3 : 0; /* U+205F */
        if (second != 0x80) return 0;
        return third <= 0x8A || third == 0xA8 || third == 0xA9 || third == 0xAF ? 3 : 0; /* U+2000 to U+202F */
    case 0xE3: return second == 0x80 && third == 0x80 ? 3 : 0; /* U+3000 */
    default: return 0;
    }
}

/* The blank that the text ends with. */
static inline size_t wide_blank_before(const uint8_t *text, size_t size) {
    if (size >= 2 && text[size - 2] == 0xC2) return wide_blank(text + size - 2, 2);
    return size >= 3 && text[size - 3] >= 0xE1 ? wide_blank(text + size - 3, 3) : 0;
}

static inline void strip_blanks(Worked *worked) {
    const uint8_t *text = worked->text;
    size_t size = worked->size, wide;
    while (size) {
        if (is_ascii_blank(*text)) wide = 1;
        else if (*text < 0x80 || !(wide = wide_blank(text, size))) break;
        text += wide, size -= wide;
    }
    while (size) {
        if (is_ascii_blank(text[size - 1])) wide = 1;
        else if (text[size - 1] < 0x80 || !(wide = wide_blank_before(text, size))) break;
        size -= wide;
    }
    worked->readable -= (size_t)(text - worked->text);
    worked->text = text;
    worked->size = size;
}

/* The letters beyond ASCII of a text, which is valid UTF-8, in place. `table`: for each character below U+20000 the lower
   half of what it becomes, as two bytes; 0 where that has another number of bytes. Returns 0 for such a one. */
static inline int change_wide_letters(uint8_t *text, size_t size, const Text *table) {
    for (uint8_t *at = text, *end = text + size; at < end;) {
        if (*at < 0x80) {
            at++;
            continue;
        }
        const int more = *at < 0xE0 ? 1 : *at < 0xF0 ? 2 : 3;
        uint32_t code = *at & (0x3Fu >> more);
        for (int i = 1; i <= more; i++) code = code << 6 | (at[i] & 0x3F);
        if (2 * (size_t)code + 1 >= table->size) return 0;
        const uint32_t half = table->text[2 * code] | (uint32_t)table->text[2 * code + 1] << 8;
        if (!half) return 0;
        code = (code & 0x10000) | half;
        for (int i = more; i; i--, code >>= 6) at[i] = (uint8_t)(0x80 | (code & 0x3F));
        *at = (uint8_t)((*at & ~(0x3Fu >> more)) | code);
        at += more + 1;
    }
    return 1;
}

/* `first`: a or A, of ASCII's letters that change; `table`: of the others. `out` may be the text's own place, or before it.
   0 where it is in doubt. */
static inline int change_case(Worked *worked, uint8_t first, const Text *table, uint8_t *out) {
    const uint8_t *text = worked->text;
    const size_t size = worked->size;
    uint8_t all = 0;
    for (size_t i = 0; i < size; i++) {
        const uint8_t byte = text[i];
        all |= byte;
        out[i] = (uint8_t)(byte ^ ((uint8_t)(byte - first) < 26 ? 0x20 : 0));
    }
    move_to(worked, out, size);
    return all < 0x80 || change_wide_letters(out, size, table);
}

/* --- amounts of money: the pattern _MONEY of loader/convert/steps.py, of which each text has one reading at most */

/* A currency's sign: $, and the common ones beyond ASCII. Its bytes, or 0. */
static inline size_t currency_sign(const uint8_t *at, const uint8_t *end) {
    if (at < end && *at == '$') return 1;
    if (end - at >= 2 && at[0] == 0xC2 && (at[1] == 0xA3 || at[1] == 0xA5)) return 2;
    return end - at >= 3 && at[0] == 0xE2 && at[1] == 0x82 && at[2] == 0xAC ? 3 : 0;
}

static inline const uint8_t *skip_blanks(const uint8_t *at, const uint8_t *end) {
    while (at < end && is_ascii_blank(*at)) at++;
    return at;
}

/* Past blanks, a currency and blanks, as far as they are there. */
static inline const uint8_t *skip_gap(const uint8_t *at, const uint8_t *end) {
    at = skip_blanks(at, end);
    const uint8_t *letters = at;
    while (letters < end && letters - at < 3 && *letters >= 'A' && *letters <= 'Z') letters++;
    size_t sign = 0;
    if (letters - at < 3 && !(sign = currency_sign(letters, end))) return at;
    return skip_blanks(letters + sign, end);
}

static inline const uint8_t *put_digits_of(const uint8_t *at, const uint8_t *end, uint8_t **out) {
    while (at < end && digit_of(*at) <= 9) *(*out)++ = *at++;
    return at;
}

/* Past an amount, whose digits and point go to `*out`; NULL where there is none. */
static inline const uint8_t *read_amount(const uint8_t *at, const uint8_t *end, uint8_t **out) {
    const uint8_t *begin = at;
    at = put_digits_of(at, end, out);
    const ptrdiff_t whole = at - begin;
    if (whole >= 1 && whole <= 3 && *begin != '0' && at < end && (*at == ',' || *at == '\'' || *at == ' ')) {
        const uint8_t separator = *at;
        while (end - at >= 4 && *at == separator && digit_of(at[1]) <= 9 && digit_of(at[2]) <= 9 && digit_of(at[3]) <= 9) {
            memcpy(*out, at + 1, 3);
            *out += 3;
            at += 4;
        }
        if (at < end && digit_of(*at) <= 9) return NULL;
    }
    if (at < end && *at == '.') {
        *(*out)++ = *at++;
        const uint8_t *fraction = at;
        at = put_digits_of(at, end, out);
        if (!whole && at == fraction) return NULL;
        return at;
    }
    return whole ? at : NULL;
}

/* The number that an amount of money is, at `out`. Returns its size; 0 where the text is none. */
static inline size_t read_money(const uint8_t *at, const uint8_t *end, uint8_t *out) {
    uint8_t *const begin = out;
    at = skip_gap(at, end);
    const int bracket = at < end && *at == '(';
    if (at < end && (bracket || *at == '+' || *at == '-')) {
        if (*at != '+') *out++ = '-';
        at = skip_gap(at + 1, end);
    }
    if (!(at = read_amount(at, end, &out))) return 0;
    at = skip_gap(at, end);
    if (bracket) {
        if (at == end || *at != ')') return 0;
        at = skip_gap(at + 1, end);
    }
    return at == end ? (size_t)(out - begin) : 0;
}

/* 0 where there are signs that are not known here. `out` is no place of the text's. */
static inline int strip_currency(Worked *worked, uint8_t *out) {
    const uint8_t *text = worked->text, *end = text + worked->size, *at = text;
    while (at < end && (uint8_t)(*at - '-') < 13 && *at != '/') at++;
    if (at == end) return 1; /* of digits, points and minuses alone: an amount or not, it stays as it is */
    const size_t size = read_money(text, end, out);
    if (size) {
        move_to(worked, out, size);
        return 1;
    }
    for (; text < end; text++)
        if (*text >= 0x80) return 0;
    return 1;
}

/* --- texts for texts */

static inline int is_text(const Worked *worked, const Text *text) {
    if (worked->size != text->size || (text->size && *worked->text != *text->text)) return 0;
    return !memcmp(worked->text, text->text, text->size);
}

/* Each `old` becomes `new`, which is no longer. `out` may be the text's own place, or before it. */
static inline void replace_text(Worked *worked, const Text *old, const Text *new, uint8_t *out) {
    const uint8_t *at = worked->text, *const end = at + worked->size;
    uint8_t *begin = out;
    while (at < end) {
        if ((size_t)(end - at) >= old->size && *at == *old->text && !memcmp(at, old->text, old->size)) {
            memcpy(out, new->text, new->size);
            out += new->size;
            at += old->size;
        } else {
            *out++ = *at++;
        }
    }
    move_to(worked, begin, (size_t)(out - begin));
}

static inline void map_text(Worked *worked, const Step *step) {
    for (uint32_t i = 0; i + 1 < step->text_count; i += 2)
        if (is_text(worked, &step->texts[i])) {
            worked->text = step->texts[i + 1].text;
            worked->size = worked->readable = step->texts[i + 1].size;
            return;
        }
}

static inline int is_one_of(const Worked *worked, const Step *step) {
    for (uint32_t i = 0; i < step->text_count; i++)
        if (is_text(worked, &step->texts[i])) return 1;
    return 0;
}

/* The steps one after the other; 0 where one is in doubt. `scratch` and `spare` each have room for the text, or the
   longest that a step makes, and for SPILL more bytes. The text may be in `scratch`. `cases`: the
   tables of LOWER and UPPER. */
static inline int apply_steps(const Step *steps, uint32_t count, const Text *cases, Worked *worked, uint8_t *scratch,
                              uint8_t *spare) {
    for (uint32_t i = 0; i < count && !worked->is_null; i++) {
        const Step *step = &steps[i];
        switch (step->kind) {
        case STRIP: strip_blanks(worked); break;
        case LOWER:
            if (!change_case(worked, 'A', &cases[0], scratch)) return 0;
            break;
        case UPPER:
            if (!change_case(worked, 'a', &cases[1], scratch)) return 0;
            break;
        case STRIP_CURRENCY: {
            if (!strip_currency(worked, spare)) return 0;
            if (worked->text == spare) { /* later steps write to `scratch` again, and may read from `spare` */
                uint8_t *const turned = scratch;
                scratch = spare;
                spare = turned;
            }
            break;
        }
        case NULL_IF: worked->is_null = is_one_of(worked, step); break;
        case REPLACE: replace_text(worked, &step->texts[0], &step->texts[1], scratch); break;
        case MAP: map_text(worked, step); break;
        default: return 0;
        }
    }
    return 1;
}

#endif
