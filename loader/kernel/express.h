/* A block of CSV records → tuples of PostgreSQL's binary COPY, in one pass and without Python.

   `express_run` finds delimiters, quotes and line ends as masks (masks.h), and converts each record as soon as its end
   is found (values.h). A record that it is not sure of is left out and noted in `odd`; whatever it holds, nothing is
   read outside of the input. Where the output has no room for the next record it returns, and goes on when it is called
   again with more. */
#ifndef LOADER_EXPRESS_H
#define LOADER_EXPRESS_H

#if defined(__linux__) && !defined(_GNU_SOURCE)
#define _GNU_SOURCE /* strtod_l */
#endif

#include "masks.h"
#include "values.h"

typedef enum {
    SMALLINT, INTEGER, BIGINT, NUMERIC, SINGLE, DOUBLE, BOOLEAN, DATE, TIMESTAMP, TIMESTAMPTZ, TIME, UUID, BYTEA,
    TEXT, JSON, JSONB, ENUM, KINDS
} Kind;

enum { STRICT = 1, REQUIRED = 2, LOCAL = 4, KEY = 8, BOUNDED = 16, FILLED = 32, FIRST = 64 };
/* STRICT: only the spelling that the value is given back in. REQUIRED: NULL is for another lane. LOCAL: a timestamptz
   without an offset is in `zone`. KEY: the records' order by it is followed. BOUNDED: of numeric(precision,scale) and
   varchar(limit). FILLED: `constant` stands for a NULL. FIRST: no column before this one is made of the same
   field. */

enum { HAS_QUOTES = 1, HAS_DOUBLED = 2, HAS_IRREGULAR = 4, HAS_NUL = 8, HAS_UNCHECKED = 16 };
/* Of a record, or of what else stands in the words of 64 bytes that it has a part in. DOUBLED: quotes beside quotes.
   IRREGULAR: quotes that are neither around whole fields nor doubled in them. UNCHECKED: what may not be UTF-8. */

enum { FROM_CONSTANT = -1, FROM_RECORD_NUMBER = -2 };

typedef struct {
    const uint8_t *text;
    uint32_t size;
} Text;

enum { SPILL = 64 }; /* bytes that may be written past a value, as long as they are within the room */

#include "filter.h"
#include "formats.h"
#include "tuples.h"
#include "steps.h"

enum { FIRST_YEAR = 1801, YEARS = 2498 - FIRST_YEAR + 1 };

typedef struct {
    int64_t since;  /* local time, microseconds since 1970 */
    int64_t offset; /* microseconds east of Greenwich; `UNSURE`: the clocks skip such times, or show them twice */
} Shift;

#define UNSURE INT64_MIN

/* The offsets of a time zone. Of year i after FIRST_YEAR they are `shifts` from `first[i]` up to `first[i + 1]`, none for a
   year that is not known yet; a year's first one begins with it. */
typedef struct {
    int is_fixed;
    int64_t fixed; /* the offset of all years */
    uint32_t first[YEARS + 1];
    Shift *shifts;
} Zone;

typedef struct {
    uint8_t kind, flags;
    int32_t field; /* of the record, from 0, or one of the enum above */
    int32_t precision, scale;
    uint32_t limit;     /* characters */
    uint32_t key_place; /* among the key's columns, from 0 */
    Text constant;
    uint32_t label_count;
    const Text *labels;
    const Zone *zone;
    uint32_t step_count;
    const Step *steps;
    Text format;      /* of a day or time of another spelling than PostgreSQL's; empty where there is none */
    uint32_t operand; /* of the filter, from 1; 0 where that does not look at it */
} Column;

typedef struct {
    uint8_t delimiter, quote, has_quote, with_position; /* quote: a NUL where there is none */
    uint32_t fields, column_count, null_count, key_count;
    uint32_t unused_count;
    const Column *columns;
    const Text *nulls;
    const uint32_t *unused; /* fields that no column is made of */
    int only_empty_is_null;
    size_t fixed;    /* bytes of a tuple beside its texts, at most, and SPILL */
    size_t repeated; /* how many columns are made of one field, at most */
    Locale locale;
    int has_steps;
    Text cases[2];  /* what becomes of letters beyond ASCII in LOWER and UPPER; empty where no column has them */
    size_t longest; /* bytes of a text that a step may make of whatever there is, at most */
    int marks_filtered; /* what the filter leaves out is put all the same, and marked: see tuples.h */
    uint32_t operand_count, clause_count;
    const Operand *operands;
    const Clause *clauses; /* of the filter; none where there is no filter */
} Program;

typedef struct {
    int64_t record, start, end; /* from 0: its number in the block, its bytes without the line end */
} Odd;

typedef struct {
    /* where it has come to */
    size_t at;
    int64_t record;
    /* what it makes: `out` and its size come from the caller */
    uint8_t *out;
    size_t used, room;
    int64_t kept, filtered;
    Odd *odd;
    size_t odd_count, odd_room;
    /* keys, of records that were kept: `key_count` numbers each */
    int rising;
    int64_t *first_key, *last_key, *key;
    /* years, after FIRST_YEAR, that zones would have to know */
    uint64_t years[YEARS / 64 + 1];
    /* scratch, `ENDS_ROOM` more than a record has fields: the byte before a record, and where each of its fields ends */
    size_t *ends;
    uint8_t *scratch, *spare; /* where there are steps: each of `scratch_size` */
    const uint8_t **values;   /* of the filter's operands, in the tuple; NULL for NULL */
} Run;

enum { ENDS_ROOM = 1 + 64 }; /* what stands in one word is kept before it is known how much of it there is */

static inline size_t scratch_size(const Program *program, size_t input_size) {
    return (input_size > program->longest ? input_size : program->longest) + SPILL;
}

typedef enum { DONE, NO_ROOM, NO_MEMORY } Outcome;

/* Notes the record of bytes `start` to `end` as left for another lane; 0 without memory. */
int note_odd(Run *run, size_t start, size_t end);

/* What a splitter has to know of bytes that begin where a record does. */
typedef struct {
    size_t cut;              /* past the last record end */
    size_t records, lines;   /* that end up to there */
    size_t shortest;         /* bytes of a record, its line end included */
    size_t longest;          /* lines of a record */
    int open;                /* the bytes end inside quotes */
    int regular;             /* quotes stand around whole fields, or are doubled in them */
} Scan;

void express_scan(const uint8_t *data, size_t size, uint8_t delimiter, uint8_t quote, int has_quote, int final, Scan *scan);

Outcome express_run(const Program *program, const uint8_t *data, size_t size, int64_t first_record, Run *run);

Outcome text_run(const Program *program, const uint8_t *data, size_t size, int64_t first_record, Run *run);

#endif
