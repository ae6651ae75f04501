/* A block of CSV records → the records of a CSV that COPY reads, with the columns in their order and a position.

   For types whose values only the server can make: it reads their texts itself, so a field goes over as it stands, quotes
   and all. What is checked is its shape: as many fields as there should be, quotes around whole fields or doubled in them,
   valid UTF-8. All other records are left out and noted, as by `express_run`, whose program it follows: columns have the
   kind TEXT, constants are fields in quotes, and the first of the texts for NULL is the one that COPY is told, and the
   shortest. */
#include "express.h"

typedef struct {
    const Program *program;
    const uint8_t *data;
    int64_t first_record;
    int whole; /* a record is the columns' fields, all of them and in their order, and no NULL needs a look */
} Task;

typedef struct {
    size_t start;
    uint32_t fields;
    int ascii, has_nul, has_quotes; /* of any word of 64 bytes that the record has a part in */
} Part;

static int is_whole(const Program *program) {
    if (program->column_count != program->fields || program->null_count != 1) return 0;
    for (uint32_t i = 0; i < program->column_count; i++)
        if (program->columns[i].field != (int32_t)i || program->columns[i].flags & (REQUIRED | FILLED)) return 0;
    return 1;
}

static int is_null(const Program *program, const uint8_t *text, size_t size) {
    for (uint32_t i = 0; i < program->null_count; i++)
        if (program->nulls[i].size == size && !memcmp(program->nulls[i].text, text, size)) return 1;
    return 0;
}

/* Whether COPY reads a field as one whole: no quotes in it, or quotes around it and doubled ones inside. */
static int is_sound(const uint8_t *text, size_t size, uint8_t quote) {
    if (!size || text[0] != quote) return !size || !memchr(text, quote, size);
    if (size < 2 || text[size - 1] != quote) return 0;
    const uint8_t *at = text + 1, *past = text + size - 1;
    while (at < past && (at = memchr(at, quote, (size_t)(past - at)))) {
        if (at + 1 >= past || at[1] != quote) return 0;
        at += 2;
    }
    return 1;
}

static size_t start_of(const Run *run, const Part *part, uint32_t field) {
    return field ? run->ends[field - 1] + 1 : part->start;
}

static int are_sound(const Task *task, const Part *part, const Run *run) {
    const Program *program = task->program;
    if (!program->has_quote || !part->has_quotes) return 1;
    for (uint32_t i = 0; i < program->fields; i++) {
        const size_t from = start_of(run, part, i);
        if (!is_sound(task->data + from, run->ends[i] - from, program->quote)) return 0;
    }
    return 1;
}

static uint8_t *put(uint8_t *out, const void *text, size_t size) {
    memcpy(out, text, size);
    return out + size;
}

static uint8_t *put_number(uint8_t *out, uint64_t number) {
    uint8_t digits[20];
    size_t at = sizeof digits;
    do digits[--at] = (uint8_t)('0' + number % 10); while (number /= 10);
    return put(out, digits + at, sizeof digits - at);
}

/* One column's field at `out`; NULL where a value is needed. */
static uint8_t *put_field(const Task *task, const Column *column, const Part *part, const Run *run, uint8_t *out) {
    const Program *program = task->program;
    if (column->field == FROM_RECORD_NUMBER) return put_number(out, (uint64_t)(task->first_record + run->record));
    if (column->field == FROM_CONSTANT) return put(out, column->constant.text, column->constant.size);
    const size_t from = start_of(run, part, (uint32_t)column->field);
    const uint8_t *text = task->data + from;
    const size_t size = run->ends[column->field] - from;
    if (!is_null(program, text, size)) return put(out, text, size);
    if (column->flags & FILLED) return put(out, column->constant.text, column->constant.size);
    if (column->flags & REQUIRED) return NULL;
    return put(out, program->nulls[0].text, program->nulls[0].size);
}

/* The record whose fields end at `run->ends`; 0 where it is for another lane. */
static int put_record(const Task *task, const Part *part, size_t end, Run *run) {
    const Program *program = task->program;
    uint8_t *begin = run->out + run->used, *out = begin;
    if (!are_sound(task, part, run)) return 0;
    if (!part->ascii && count_utf8(task->data + part->start, end - part->start) < 0) return 0;
    if (task->whole) {
        out = put(out, task->data + part->start, end - part->start);
    } else {
        for (uint32_t i = 0; i < program->column_count; i++) {
            if (i) *out++ = program->delimiter;
            if (!(out = put_field(task, &program->columns[i], part, run, out))) return 0;
        }
    }
    if (out - begin >= 2 && begin[0] == '\\' && begin[1] == '.') return 0; /* the end of the data, until PostgreSQL 17 */
    if (program->with_position) {
        *out++ = program->delimiter;
        out = put_number(out, (uint64_t)(task->first_record + run->record));
    }
    *out++ = '\n';
    run->used = (size_t)(out - run->out);
    run->kept++;
    return 1;
}

static Outcome end_record(const Task *task, const Part *part, size_t end, Run *run) {
    const Program *program = task->program;
    const size_t length = end - part->start;
    if (run->room - run->used < program->fixed + program->repeated * length) return NO_ROOM;
    int sure = part->fields + 1 == program->fields && !part->has_nul && (length || program->fields == 1);
    if (sure) {
        run->ends[part->fields] = end;
        sure = put_record(task, part, end, run);
    }
    if (!sure && !note_odd(run, part->start, end)) return NO_MEMORY;
    run->record++;
    return DONE;
}

Outcome text_run(const Program *program, const uint8_t *data, size_t size, int64_t first_record, Run *run) {
    const Task task = {program, data, first_record, is_whole(program)};
    Part part = {run->at, 0, 1, 0, 0};
    uint64_t inside = 0; /* all ones: the word before ended inside quotes */
    uint8_t last[64];
    for (size_t base = run->at; base < size; base += 64) {
        uint64_t within;
        const uint8_t *word = word_at(data, size, base, last, &within);
        const Masks masks = masks_of(word, program->delimiter, program->quote);
        const uint64_t quotes = program->has_quote ? masks.quote & within : 0;
        uint64_t quoted = inside;
        if (quotes) {
            quoted ^= prefix_xor(quotes);
            inside = (uint64_t)0 - (quoted >> 63);
        }
        const int ascii = !masks.beyond_ascii, has_nul = (masks.nul & within) != 0, has_quotes = quotes != 0;
        part.ascii &= ascii;
        part.has_nul |= has_nul;
        part.has_quotes |= has_quotes;
        const uint64_t line_ends = (masks.lf | masks.cr) & ~quoted & within;
        uint64_t structure = (masks.delimiter & ~quoted & within) | line_ends;
        while (structure) {
            const int bit = first_bit(structure);
            const size_t at = base + (size_t)bit;
            structure &= structure - 1;
            if (!(line_ends >> bit & 1)) {
                if (part.fields < program->fields) run->ends[part.fields] = at;
                part.fields += part.fields < program->fields;
                continue;
            }
            if (at < part.start) continue; /* the LF of a CRLF */
            const Outcome outcome = end_record(&task, &part, at, run);
            if (outcome != DONE) return outcome;
            run->at = at + 1 + (data[at] == '\r' && at + 1 < size && data[at + 1] == '\n');
            const Part next = {run->at, 0, ascii, has_nul, has_quotes};
            part = next;
        }
    }
    if (part.start < size) { /* the last record of a file that ends without a line end */
        if (inside) part.fields = program->fields; /* or in the middle of a quoted field */
        const Outcome outcome = end_record(&task, &part, size, run);
        if (outcome != DONE) return outcome;
        run->at = size;
    }
    return DONE;
}
