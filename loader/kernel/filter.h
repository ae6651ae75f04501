/* A spec's filter, where it is comparisons of columns with constants, over the tuple that a record has become.

   The clauses are in postfix order. What they compare is read back from the tuple, so each value is what PostgreSQL gets.
   Logic is three-valued: see loader/core/spec/filter.py. */
#ifndef LOADER_FILTER_H
#define LOADER_FILTER_H

#include "values.h"

typedef enum { WITHIN, WITHIN_FLOATS, BESIDE_TEXT, IS_NULL, TRUTH, NOT, AND, OR, CLAUSE_KINDS } ClauseKind;

/* WITHIN: the number of an operand is in [low, high]. WITHIN_FLOATS: the same of floats, whose bits these are.
   BESIDE_TEXT: it is below (1), equal to (2) or above (4) the text, as the bits of `low` say. TRUTH: what `low` says.
   `negated`: of the first three, the opposite, where the operand is not NULL. */
typedef struct {
    uint8_t kind, negated;
    uint32_t operand;
    int64_t low, high;
    Text text;
} Clause;

typedef struct {
    uint8_t kind;    /* of its column: enum Kind */
    int32_t scale;   /* digits after the point of a NUMERIC, whose number is scaled to a whole one */
} Operand;

enum { FILTER_DEPTH = 128 };

typedef enum { FALSE_, TRUE_, UNKNOWN } Truth;

static inline uint32_t get16(const uint8_t *bytes) { return (uint32_t)bytes[0] << 8 | bytes[1]; }

static inline uint32_t get32(const uint8_t *bytes) { return get16(bytes) << 16 | get16(bytes + 2); }

static inline uint64_t get64(const uint8_t *bytes) { return (uint64_t)get32(bytes) << 32 | get32(bytes + 4); }

/* NaN and what is infinite: the other lanes have an order of their own for it, or reject what they cannot show. Columns
   that are numerics, floats, dates or timestamps. */
static inline int is_special(uint8_t kind, const uint8_t *bytes) {
    switch (kind) {
    case NUMERIC: return get16(bytes + 4) & 0x8000; /* the sign of what is no number: 0xC000 and more */
    case SINGLE: return (get32(bytes) & 0x7F800000) == 0x7F800000;
    case DOUBLE: return (get64(bytes) & UINT64_C(0x7FF0000000000000)) == UINT64_C(0x7FF0000000000000);
    case DATE: return get32(bytes) == INT32_MAX || get32(bytes) == (uint32_t)INT32_MAX + 1;
    case TIMESTAMP: case TIMESTAMPTZ: return get64(bytes) == INT64_MAX || get64(bytes) == (uint64_t)INT64_MAX + 1;
    default: return 0;
    }
}

/* A numeric of at most 18 digits, as `put_numeric` made it, in units of its last digit; 0 where it has more digits after
   the point than `scale`, as the server will round it. */
static inline int get_numeric(const uint8_t *bytes, int32_t scale, int64_t *number) {
    const uint32_t count = get16(bytes), sign = get16(bytes + 4), shown = get16(bytes + 6);
    const int weight = (int16_t)get16(bytes + 2);
    uint64_t read = 0;
    if (shown > (uint32_t)scale) return 0;
    for (uint32_t i = 0; i < count; i++) {
        const int exponent = 4 * (weight - (int)i) + scale;
        const uint64_t group = get16(bytes + 8 + 2 * i);
        if (exponent >= 20 || exponent <= -20) return 0;
        read += exponent >= 0 ? group * POWERS[exponent] : group / POWERS[-exponent];
    }
    *number = sign ? -(int64_t)read : (int64_t)read;
    return 1;
}

static inline int get_number(const Operand *operand, const uint8_t *bytes, int64_t *number) {
    switch (operand->kind) {
    case SMALLINT: return *number = (int16_t)get16(bytes), 1;
    case INTEGER: case DATE: return *number = (int32_t)get32(bytes), 1;
    case BIGINT: case TIMESTAMP: case TIMESTAMPTZ: case TIME: return *number = (int64_t)get64(bytes), 1;
    case BOOLEAN: return *number = *bytes, 1;
    case NUMERIC: return get_numeric(bytes, operand->scale, number);
    default: return 0;
    }
}

static inline double get_float(const Operand *operand, const uint8_t *bytes) {
    if (operand->kind == SINGLE) {
        const uint32_t bits = get32(bytes);
        float single;
        memcpy(&single, &bits, 4);
        return single;
    }
    const uint64_t bits = get64(bytes);
    double number;
    memcpy(&number, &bits, 8);
    return number;
}

static inline double double_of(int64_t bits) {
    double number;
    memcpy(&number, &bits, 8);
    return number;
}

static inline int is_beside(const uint8_t *bytes, const Text *text, int64_t wanted) {
    const size_t size = get32(bytes - 4), common = size < text->size ? size : text->size;
    const int order = common ? memcmp(bytes, text->text, common) : 0;
    const int way = order ? order : size < text->size ? -1 : size > text->size;
    return (int)(wanted >> (way < 0 ? 0 : way ? 2 : 1)) & 1;
}

/* What a clause says by itself; -1 where that is not sure. `bytes`: its operand's value, NULL for NULL. */
static inline int judge_clause(const Clause *clause, const Operand *operands, const uint8_t *bytes) {
    int holds;
    int64_t number;
    if (!bytes) return UNKNOWN;
    const Operand *operand = &operands[clause->operand];
    if (clause->kind == WITHIN) {
        if (!get_number(operand, bytes, &number)) return -1;
        holds = number >= clause->low && number <= clause->high;
    } else if (clause->kind == WITHIN_FLOATS) {
        const double value = get_float(operand, bytes);
        holds = value >= double_of(clause->low) && value <= double_of(clause->high);
    } else {
        holds = is_beside(bytes, &clause->text, clause->low);
    }
    return holds ^ clause->negated;
}

static inline Truth both(Truth one, Truth other) {
    if (one == FALSE_ || other == FALSE_) return FALSE_;
    return one == TRUE_ && other == TRUE_ ? TRUE_ : UNKNOWN;
}

static inline Truth inverse(Truth one) { return one == UNKNOWN ? UNKNOWN : one == TRUE_ ? FALSE_ : TRUE_; }

/* Whether the filter keeps a record: 1, 0, or -1 where that is not sure. `values`: where each operand's bytes are. */
static inline int is_kept(const Clause *clauses, uint32_t count, const Operand *operands, const uint8_t *const *values) {
    Truth stack[FILTER_DEPTH];
    size_t top = 0;
    for (const Clause *clause = clauses; clause < clauses + count; clause++) {
        switch (clause->kind) {
        case IS_NULL: stack[top++] = values[clause->operand] ? FALSE_ : TRUE_; break;
        case TRUTH: stack[top++] = (Truth)clause->low; break;
        case NOT: stack[top - 1] = inverse(stack[top - 1]); break;
        case AND: top--, stack[top - 1] = both(stack[top - 1], stack[top]); break;
        case OR: top--, stack[top - 1] = inverse(both(inverse(stack[top - 1]), inverse(stack[top]))); break;
        default: {
            const int found = judge_clause(clause, operands, values[clause->operand]);
            if (found < 0) return -1;
            stack[top++] = (Truth)found;
        }
        }
    }
    return stack[0] == TRUE_;
}

/* Whether the clauses make one condition of what is there. */
static inline int is_condition(const Clause *clauses, uint32_t count, const Operand *operands, uint32_t operand_count) {
    size_t top = 0;
    for (uint32_t i = 0; i < count; i++) {
        const Clause *clause = &clauses[i];
        const size_t taken = clause->kind == AND || clause->kind == OR ? 2 : clause->kind == NOT;
        if (clause->kind >= CLAUSE_KINDS || top < taken) return 0;
        if (clause->kind == TRUTH && (clause->low < FALSE_ || clause->low > UNKNOWN)) return 0;
        if (clause->kind <= IS_NULL) {
            if (clause->operand >= operand_count || clause->negated > 1) return 0;
            const uint8_t kind = operands[clause->operand].kind;
            if (clause->kind == WITHIN_FLOATS && kind != SINGLE && kind != DOUBLE) return 0;
            if (clause->kind == WITHIN && (kind == SINGLE || kind == DOUBLE || kind > TIME)) return 0;
        }
        top = top - taken + 1;
        if (top > FILTER_DEPTH) return 0;
    }
    return top == 1;
}

#endif
