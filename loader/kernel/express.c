#include "express.h"

typedef struct {
    const uint8_t *text;
    size_t size;
    size_t readable;     /* bytes from `text` on that may be read */
    int quoted, doubled; /* doubled: quotes in it are still written twice */
    int is_null;
} Field;

typedef struct {
    const Program *program;
    const uint8_t *data;
    size_t size;
    int64_t first_record;
} Job;

static Field field_of(const Text *text) {
    const Field field = {text->text, text->size, text->size, 0, 0, 0};
    return field;
}

/* The quotes in the middle of a field that is quoted, or -1 where COPY would read it otherwise than as one whole. */
static int64_t inner_quotes(const uint8_t *text, size_t size, uint8_t quote) {
    const uint8_t *at = text + 1, *past = text + size - 1;
    int64_t count = 0;
    if (size < 2 || *past != quote) return -1;
    while (at < past && (at = memchr(at, quote, (size_t)(past - at)))) {
        if (at + 1 >= past || at[1] != quote) return -1;
        count += 2;
        at += 2;
    }
    return count;
}

static int is_null(const Program *program, const uint8_t *text, size_t size) {
    for (uint32_t i = 0; i < program->null_count; i++) {
        const Text *null = &program->nulls[i];
        if (null->size == size && !memcmp(null->text, text, size)) return 1;
    }
    return 0;
}

/* The field from `start` to `end`. `marks`: of its record. 0 where COPY would read it otherwise than as one whole. */
INLINE int read_field(const Program *program, const uint8_t *data, size_t data_size, size_t start, size_t end, unsigned marks,
                      Field *field) {
    const uint8_t *text = data + start;
    const size_t size = end - start;
    field->text = text;
    field->size = size;
    field->readable = data_size - start;
    field->quoted = field->doubled = field->is_null = 0;
    if (marks & HAS_QUOTES && size && text[0] == program->quote) {
        field->quoted = 1;
        field->doubled = (marks & HAS_DOUBLED) != 0;
        if (marks & HAS_IRREGULAR) {
            const int64_t quotes = inner_quotes(text, size, program->quote);
            if (quotes < 0) return 0;
            field->doubled = quotes != 0;
        }
        field->text++;
        field->size -= 2;
        field->readable--;
        return 1;
    }
    field->is_null = program->only_empty_is_null ? !size : is_null(program, text, size);
    return 1;
}

/* A text with its quotes as they are meant, sixteen bytes at a time while as many may be read. Returns its size. */
static size_t put_undoubled(const uint8_t *text, size_t size, size_t readable, uint8_t quote, uint8_t *out) {
    const uint8_t *at = text, *past = text + size;
    uint8_t *begin = out;
    while (at < past && (size_t)(at - text) + 16 <= readable) {
        const int ahead = copy_until(at, quote, out); /* of the sixteen, up to the first quote and with it */
        const size_t run = (size_t)(past - at) < (size_t)ahead ? (size_t)(past - at) : (size_t)ahead;
        at += run;
        out += run;
        if (at < past && at[-1] == quote) at++; /* written twice */
    }
    while (at < past) {
        *out++ = *at++;
        if (at < past && at[-1] == quote) at++;
    }
    return (size_t)(out - begin);
}

/* The text of a field with its quotes as they are meant. Returns its size. */
INLINE size_t put_text(const Program *program, const Field *field, uint8_t *out) {
    const uint8_t *text = field->text;
    const size_t size = field->size;
    if (field->doubled) return put_undoubled(text, size, field->readable, program->quote, out);
    if (size > SPILL || field->readable < SPILL) {
        memcpy(out, text, size);
    } else { /* cheaper than to count */
        memcpy(out, text, SPILL);
    }
    return size;
}

/* A local time, in microseconds from 0001-01-01, to UTC. 0 where it is not sure; a year that the zone should know is noted. */
static int put_in_zone(const Zone *zone, int year, Run *run, int64_t *value) {
    if (zone->is_fixed) {
        *value -= zone->fixed;
        return *value >= 0;
    }
    const int place = year - FIRST_YEAR;
    if (place < 0 || place >= YEARS) return 0;
    const Shift *first = zone->shifts + zone->first[place], *shift = zone->shifts + zone->first[place + 1];
    if (first == shift) {
        run->years[place / 64] |= (uint64_t)1 << (place % 64);
        return 0;
    }
    const int64_t local = *value - EPOCH * MICROSECONDS_OF_DAY;
    while (--shift > first && shift->since > local) continue;
    if (shift->offset == UNSURE) return 0;
    *value -= shift->offset;
    return 1;
}

/* A value's bytes without their length, at `out`. Returns their number, or -1 where it is not sure. `valid`: the text is
   known to be UTF-8. `number` receives what orders keys. */
INLINE int64_t put_value(const Program *program, const Column *column, const Field *field, int valid, Run *run, uint8_t *out,
                         int64_t *number) {
    const uint8_t *text = field->text;
    const size_t size = field->size, readable = field->readable;
    const int strict = column->flags & STRICT;
    int64_t value = 0;
    if (field->doubled && (column->kind < TEXT || column->kind == ENUM) && memchr(text, program->quote, size)) return -1;
    switch (column->kind) {
    case TEXT: case JSON: case JSONB: {
        if (!valid && count_utf8(text, size) < 0) return -1;
        if (column->kind == JSONB) *out++ = 1; /* the version of its format */
        const size_t written = put_text(program, field, out);
        if (column->flags & BOUNDED && written > column->limit && count_characters(out, written) > column->limit) return -1;
        return (int64_t)written + (column->kind == JSONB);
    }
    case SMALLINT:
        if (!read_integer(text, size, readable, INT16_MAX, strict, &value)) return -1;
        put16(out, (uint32_t)value);
        *number = value;
        return 2;
    case INTEGER:
        if (!read_integer(text, size, readable, INT32_MAX, strict, &value)) return -1;
        put32(out, (uint32_t)value);
        *number = value;
        return 4;
    case BIGINT:
        if (!read_integer(text, size, readable, INT64_MAX, strict, &value)) return -1;
        put64(out, (uint64_t)value);
        *number = value;
        return 8;
    case NUMERIC: {
        Decimal decimal;
        if (!(column->flags & KEY)) {
            const int room = column->flags & BOUNDED ? column->precision - column->scale : -1;
            const int64_t made = put_short_numeric(text, size, readable, strict, room, column->scale, out);
            if (made != NOT_SHORT) return made;
            if (!strict && is_word(text, size, "nan")) {
                put64(out, UINT64_C(0xC0000000)); /* no digits; its sign says it */
                return 8;
            }
        }
        if (!split_decimal(text, size, strict, &decimal)) return -1;
        if (strict && decimal.negative) { /* -0 would come back as 0 */
            size_t at = 0;
            while (at < decimal.fraction_size && decimal.fraction[at] == '0') at++;
            if (!decimal.whole_size && at == decimal.fraction_size) return -1;
        }
        if (column->flags & BOUNDED && !fits_numeric(&decimal, column->precision, column->scale)) return -1;
        if (column->flags & KEY) { /* scaled to a whole number; those of more than 18 digits are no keys here */
            uint64_t whole = 0, fraction = 0;
            const size_t padding = (size_t)column->scale - decimal.fraction_size;
            if (decimal.fraction_size > (size_t)column->scale || column->precision > 18) return -1;
            if (decimal.whole_size && !read_digits(decimal.whole, decimal.whole_size, decimal.whole_size, &whole)) return -1;
            if (decimal.fraction_size && !read_digits(decimal.fraction, decimal.fraction_size, decimal.fraction_size, &fraction))
                return -1;
            *number = (int64_t)(whole * POWERS[column->scale] + fraction * POWERS[padding]);
            if (decimal.negative) *number = -*number;
        }
        const size_t given = decimal.fraction_size, scale = (size_t)column->scale;
        return put_numeric(&decimal, given < scale ? scale : given, out);
    }
    case SINGLE: {
        float single;
        if (!read_single(text, size, strict, program->locale, &single)) return -1;
        put_single(out, single);
        return 4;
    }
    case DOUBLE: {
        double read;
        if (!read_double(text, size, strict, program->locale, &read)) return -1;
        put_double(out, read);
        return 8;
    }
    case BOOLEAN: {
        int truth;
        if (!read_boolean(text, size, strict, &truth)) return -1;
        *out = (uint8_t)truth;
        return 1;
    }
    case DATE: {
        if (size != 10) return -1;
        int year;
        const int32_t day = read_day(text, &year);
        if (day < 0) return -1;
        put32(out, (uint32_t)(day - EPOCH_OF_POSTGRES));
        *number = day - EPOCH;
        return 4;
    }
    case TIMESTAMP: case TIMESTAMPTZ: {
        int year;
        int64_t offset;
        const Timestamp moment = read_timestamp(text, size, strict, &value, &year, &offset);
        if (moment == UNREADABLE) return -1;
        if (column->kind == TIMESTAMP) { /* the server ignores an offset, but it is no form that gives the text back */
            if (strict && moment == WITH_OFFSET) return -1;
        } else if (moment == WITH_OFFSET) {
            value -= offset;
            if (value < 0) return -1; /* before the year 1 is for the server */
        } else if (!(column->flags & LOCAL) || !put_in_zone(column->zone, year, run, &value)) {
            return -1;
        }
        put64(out, (uint64_t)(value - EPOCH_OF_POSTGRES * MICROSECONDS_OF_DAY));
        *number = value - EPOCH * MICROSECONDS_OF_DAY;
        return 8;
    }
    case TIME: {
        size_t used;
        value = read_clock(text, size, &used);
        if (value < 0 || used != size) return -1;
        put64(out, (uint64_t)value);
        return 8;
    }
    case UUID:
        return read_uuid(text, size, strict, out) ? 16 : -1;
    case BYTEA:
        return read_bytea(text, size, out);
    case ENUM:
        for (uint32_t i = 0; i < column->label_count; i++)
            if (column->labels[i].size == size && !memcmp(column->labels[i].text, text, size)) {
                memcpy(out, text, size);
                return (int64_t)size;
            }
        return -1;
    default:
        return -1;
    }
}

static int is_blank(uint8_t byte) { return byte == ' ' || (byte >= '\t' && byte <= '\r'); }

/* A second try of a value that was not sure: without the blanks around its text, if its type lets them be. */
static NOINLINE int64_t put_between_blanks(const Program *program, const Column *column, Field field, Run *run, uint8_t *out,
                                           int64_t *number) {
    const size_t before = field.size;
    if (column->kind > TIME || column->flags & STRICT) return -1;
    while (field.size && is_blank(field.text[0])) field.text++, field.size--, field.readable--;
    while (field.size && is_blank(field.text[field.size - 1])) field.size--;
    return field.size < before ? put_value(program, column, &field, 0, run, out, number) : -1;
}

static size_t put_digits(uint64_t number, uint8_t *out) {
    uint8_t turned[20];
    size_t count = 0;
    do turned[count++] = (uint8_t)('0' + number % 10); while (number /= 10);
    for (size_t i = 0; i < count; i++) out[i] = turned[count - 1 - i];
    return count;
}

/* Whether this record's keys are above those of the last one that was kept; remembers them. */
static void follow_keys(const Program *program, Run *run) {
    const size_t bytes = program->key_count * sizeof(int64_t);
    if (!run->kept) {
        memcpy(run->first_key, run->key, bytes);
    } else if (run->rising) {
        uint32_t same = 0;
        while (same < program->key_count && run->key[same] == run->last_key[same]) same++;
        run->rising = same < program->key_count && run->key[same] > run->last_key[same];
    }
    memcpy(run->last_key, run->key, bytes);
}

/* The quotes of a field that is quoted: those around it, and those doubled in it. */
static size_t quotes_of(const Program *program, const uint8_t *text, size_t size) {
    return size && text[0] == program->quote ? 2 + (size_t)inner_quotes(text, size, program->quote) : 0;
}

/* What is not loaded has to be well-formed all the same: COPY reads it, too. Counts its quotes. */
static int check_unused(const Job *job, unsigned marks, const size_t *ends, size_t *quotes) {
    for (uint32_t i = 0; i < job->program->unused_count; i++) {
        const uint32_t place = job->program->unused[i];
        const size_t from = ends[place] + 1, to = ends[place + 1];
        Field field;
        if (!read_field(job->program, job->data, job->size, from, to, marks, &field)) return 0;
        if (marks & HAS_UNCHECKED && count_utf8(job->data + from, to - from) < 0) return 0;
        if (marks & HAS_IRREGULAR) *quotes += quotes_of(job->program, job->data + from, to - from);
    }
    return 1;
}

static size_t count_quotes(const uint8_t *text, size_t size, uint8_t quote) {
    size_t count = 0;
    for (size_t i = 0; i < size; i++) count += text[i] == quote;
    return count;
}

/* What follows is not for `put_tuple` to take in: its loop is slower by a fifth where it does. */
#if defined(__GNUC__)
#define APART __attribute__((noinline))
#else
#define APART
#endif

/* A field's text after its column's steps; without a text where one is in doubt. */
APART static Worked work_field(const Program *program, const Column *column, int valid, const Run *run, Field field) {
    const Worked doubt = {NULL, 0, 0, 0};
    Worked worked = {field.text, field.size, field.readable, 0};
    if (!valid && count_utf8(field.text, field.size) < 0) return doubt;
    if (field.doubled) move_to(&worked, run->scratch, put_undoubled(field.text, field.size, field.readable, program->quote, run->scratch));
    if (!apply_steps(column->steps, column->step_count, program->cases, &worked, run->scratch, run->spare)) return doubt;
    return worked;
}

/* `put_value` for a text of the column's format. */
APART static int64_t put_moment(const Column *column, const uint8_t *text, size_t text_size, uint8_t *out, int64_t *number) {
    Moment moment;
    if (!read_formatted(&column->format, text, text_size, &moment)) return -1;
    if (column->kind == DATE) {
        put32(out, (uint32_t)(moment.day - EPOCH_OF_POSTGRES));
        *number = moment.day - EPOCH;
        return 4;
    }
    const int64_t value = moment.day * MICROSECONDS_OF_DAY + moment.clock - moment.offset;
    if (value < 0) return -1; /* before the year 1 */
    put64(out, (uint64_t)(column->kind == TIME ? moment.clock : value - EPOCH_OF_POSTGRES * MICROSECONDS_OF_DAY));
    *number = value - EPOCH * MICROSECONDS_OF_DAY;
    return 8;
}

/* Whether the filter keeps the record of a tuple: 1, 0, or -1 where that is not sure. */
APART static int passes_filter(const Program *program, const uint8_t *tuple, const Run *run) {
    tuple += 2;
    for (uint32_t i = 0; i < program->column_count; i++) {
        const uint32_t size = get32(tuple), operand = program->columns[i].operand;
        tuple += 4;
        if (operand) run->values[operand - 1] = size == UINT32_MAX ? NULL : tuple;
        if (size == UINT32_MAX) continue;
        if (is_special(program->columns[i].kind, tuple)) return -1;
        tuple += size;
    }
    return is_kept(program->clauses, program->clause_count, program->operands, run->values);
}

/* The tuple of the record of bytes `start` to `end`, whose field i begins behind `ends[i]`; 0 where it is not sure of it. */
INLINE int put_tuple(const Job *job, size_t start, size_t end, unsigned marks, Run *run) {
    const Program *program = job->program;
    const uint8_t *const data = job->data;
    const size_t data_size = job->size;
    const int64_t number = job->first_record + run->record;
    const size_t *const ends = run->ends;
    uint8_t *out = run->out + run->used, digits[20];
    size_t counted = 0; /* quotes around fields and doubled in them: where that is all, the other fields have none */
    put16(out, program->column_count + program->with_position);
    out += 2;
    const Column *column = program->columns, *past = column + program->column_count;
    for (; column < past; column++) {
        Field field;
        int valid = !(marks & HAS_UNCHECKED);
        if (column->field >= 0) {
            const size_t from = ends[column->field] + 1, to = ends[column->field + 1];
            if (!read_field(program, data, data_size, from, to, marks, &field)) return 0;
            if (marks & HAS_IRREGULAR && column->flags & FIRST) counted += quotes_of(program, data + from, to - from);
            if (column->step_count && !field.is_null) {
                const Worked worked = work_field(program, column, valid, run, field);
                if (!worked.text) return 0;
                field.text = worked.text;
                field.size = worked.size;
                field.readable = worked.readable;
                field.is_null = worked.is_null;
                field.doubled = 0;
            }
            if (field.is_null && column->flags & FILLED) field = field_of(&column->constant), valid = 0;
        } else if (column->field == FROM_RECORD_NUMBER) {
            const Text text = {digits, (uint32_t)put_digits((uint64_t)number, digits)};
            field = field_of(&text);
        } else {
            field = field_of(&column->constant);
            valid = 0;
        }
        if (field.is_null) {
            if (column->flags & (REQUIRED | KEY)) return 0;
            put32(out, UINT32_MAX);
            out += 4;
            continue;
        }
        int64_t key = 0;
        int64_t size;
        if (column->format.size) {
            int64_t moment = 0;
            size = field.doubled ? -1 : put_moment(column, field.text, field.size, out + 4, &moment);
            if (size < 0) return 0;
            key = moment;
        } else if ((size = put_value(program, column, &field, valid, run, out + 4, &key)) < 0) {
            int64_t again = 0;
            if ((size = put_between_blanks(program, column, field, run, out + 4, &again)) < 0) return 0;
            key = again;
        }
        if (column->flags & KEY) run->key[column->key_place] = key;
        put32(out, (uint32_t)size);
        out += 4 + size;
    }
    if (program->with_position) {
        put32(out, 8);
        put64(out + 4, (uint64_t)number);
        out += 12;
    }
    if (marks & (HAS_IRREGULAR | HAS_UNCHECKED) && !check_unused(job, marks, ends, &counted)) return 0;
    if (marks & HAS_IRREGULAR && counted != count_quotes(data + start, end - start, program->quote)) return 0;
    if (program->clause_count) {
        const int kept = passes_filter(program, run->out + run->used, run);
        if (kept < 0) return 0;
        if (!kept) {
            run->filtered++;
            if (!program->marks_filtered) return 1;
            run->out[run->used] |= MARKED >> 8;
            run->used = (size_t)(out - run->out);
            return 1;
        }
    }
    if (program->key_count) follow_keys(program, run);
    run->used = (size_t)(out - run->out);
    run->kept++;
    return 1;
}

/* Twice the same: most records have no marks beside quotes, and their fields need not be asked about others. Where there
   is no quote, `quote` is a NUL, and a record that has one does not come here. */
static NOINLINE int put_plain_tuple(const Job *job, size_t start, size_t end, Run *run) {
    return put_tuple(job, start, end, HAS_QUOTES, run);
}

static NOINLINE int put_marked_tuple(const Job *job, size_t start, size_t end, unsigned marks, Run *run) {
    return put_tuple(job, start, end, marks, run);
}

int note_odd(Run *run, size_t start, size_t end) {
    if (run->odd_count == run->odd_room) {
        const size_t room = run->odd_room ? run->odd_room * 2 : 64;
        Odd *odd = realloc(run->odd, room * sizeof(Odd));
        if (!odd) return 0;
        run->odd = odd;
        run->odd_room = room;
    }
    const Odd found = {run->record, (int64_t)start, (int64_t)end};
    run->odd[run->odd_count++] = found;
    return 1;
}

typedef struct {
    size_t start;    /* of the record */
    uint32_t fields; /* that have ended; no more than the program's are kept */
    unsigned marks;
} Pending;

static Outcome end_record(const Job *job, size_t end, const Pending *pending, Run *run) {
    const Program *program = job->program;
    const size_t length = end - pending->start;
    if (run->room - run->used < program->fixed + program->repeated * length) return NO_ROOM;
    int sure = pending->fields + 1 == program->fields && !(pending->marks & HAS_NUL) && (length || program->fields == 1);
    if (sure) {
        run->ends[0] = pending->start - 1;
        run->ends[program->fields] = end;
        sure = pending->marks & ~(unsigned)HAS_QUOTES ? put_marked_tuple(job, pending->start, end, pending->marks, run)
                                                      : put_plain_tuple(job, pending->start, end, run);
    }
    if (!sure && !note_odd(run, pending->start, end)) return NO_MEMORY;
    run->record++;
    return DONE;
}

/* Whether a word is all one field's ASCII. `ends`: what ends fields in it. */
INLINE int is_dull(uint64_t quote, uint64_t ends, const Masks *masks, const Before *before, const Unfinished *unfinished) {
    return !(quote | ends | masks->nul | masks->beyond_ascii | before->closing | unfinished->due);
}

Outcome express_run(const Program *program, const uint8_t *data, size_t size, int64_t first_record, Run *run) {
    const Job job = {program, data, size, first_record};
    Pending pending = {run->at, 0, 0};
    Before before = RECORD_START;
    Unfinished unfinished = {0, 0};
    uint8_t last[64];
    for (size_t base = run->at; base < size; base += 64) {
        uint64_t within;
        const uint8_t *word = word_at(data, size, base, last, &within);
        const Masks masks = masks_of(word, program->delimiter, program->quote);
        const uint64_t quote = program->has_quote ? masks.quote & within : 0;
        uint64_t line_ends = (masks.lf | masks.cr) & within, delimiters = masks.delimiter & within;
        if (before.inside ? is_dull(quote, 0, &masks, &before, &unfinished)
                          : is_dull(quote, line_ends | delimiters, &masks, &before, &unfinished)) {
            before.border = (line_ends | delimiters) >> 63;
            before.quote = 0;
            continue;
        }
        const Quotes quotes = quotes_of_word(quote, line_ends | delimiters, within, &before);
        const unsigned marks = (quote ? HAS_QUOTES : 0) | (quotes.irregular ? HAS_IRREGULAR : 0) |
                               (quotes.doubled ? HAS_DOUBLED : 0) | (masks.nul & within ? HAS_NUL : 0) |
                               (is_utf8(word, masks.beyond_ascii, &unfinished) ? 0 : HAS_UNCHECKED);
        pending.marks |= marks;
        line_ends &= ~quotes.quoted;
        delimiters &= ~quotes.quoted;
        for (;;) {
            const uint64_t line_end = line_ends & (0 - line_ends);
            uint64_t ahead = delimiters & (line_end - 1); /* those before it, or all */
            size_t *end = run->ends + 1 + pending.fields;
            for (; ahead; ahead &= ahead - 1) *end++ = base + (size_t)first_bit(ahead);
            pending.fields = (uint32_t)(end - run->ends - 1);
            if (pending.fields > program->fields) pending.fields = program->fields;
            if (!line_end) break;
            line_ends ^= line_end;
            delimiters &= 0 - line_end;
            const size_t at = base + (size_t)first_bit(line_end);
            if (at < pending.start) continue; /* the LF of a CRLF */
            const Outcome outcome = end_record(&job, at, &pending, run);
            if (outcome != DONE) return outcome;
            run->at = at + 1 + (data[at] == '\r' && at + 1 < size && data[at + 1] == '\n');
            const Pending next = {run->at, 0, marks};
            pending = next;
        }
    }
    if (pending.start < size) { /* the last record of a file that ends without a line end */
        if (before.inside) pending.fields = program->fields; /* or in the middle of a quoted field */
        if (unfinished.due) pending.marks |= HAS_UNCHECKED;
        const Outcome outcome = end_record(&job, size, &pending, run);
        if (outcome != DONE) return outcome;
        run->at = size;
    }
    return DONE;
}
