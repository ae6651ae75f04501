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

/* A field with quotes around it. 0 where COPY would read it otherwise than as one whole. */
static int read_quoted(const Program *program, Field *field) {
    const uint8_t quote = program->quote;
    if (field->size < 2 || field->text[field->size - 1] != quote) return 0;
    field->text++;
    field->readable--;
    field->size -= 2;
    field->quoted = 1;
    const uint8_t *at = field->text, *past = field->text + field->size;
    while (at < past && (at = memchr(at, quote, (size_t)(past - at)))) {
        if (at + 1 >= past || at[1] != quote) return 0;
        field->doubled = 1;
        at += 2;
    }
    return 1;
}

static int is_null(const Program *program, const Field *field) {
    for (uint32_t i = 0; i < program->null_count; i++) {
        const Text *null = &program->nulls[i];
        if (null->size == field->size && !memcmp(null->text, field->text, null->size)) return 1;
    }
    return 0;
}

/* The field from `start` to `end`; 0 as for `read_quoted`. `has_quotes`: the record has some. */
static inline int read_field(const Job *job, size_t start, size_t end, int has_quotes, Field *field) {
    const Program *program = job->program;
    field->text = job->data + start;
    field->size = end - start;
    field->readable = job->size - start;
    field->quoted = field->doubled = field->is_null = 0;
    if (has_quotes && field->size && field->text[0] == program->quote) return read_quoted(program, field);
    field->is_null = program->only_empty_is_null ? !field->size : is_null(program, field);
    return 1;
}

static size_t put_undoubled(const Program *program, const Field *field, uint8_t *out) {
    const uint8_t *at = field->text, *past = field->text + field->size;
    uint8_t *begin = out;
    while (at < past) {
        const uint8_t *quote = memchr(at, program->quote, (size_t)(past - at));
        const size_t run = (size_t)((quote ? quote + 1 : past) - at);
        memcpy(out, at, run);
        out += run;
        at += quote ? run + 1 : run;
    }
    return (size_t)(out - begin);
}

/* The text of a field with its quotes as they are meant. Returns its size. */
static inline size_t put_text(const Program *program, const Field *field, uint8_t *out) {
    if (field->doubled) return put_undoubled(program, field, out);
    if (field->size <= SPILL && field->readable >= SPILL) memcpy(out, field->text, SPILL); /* cheaper than to count */
    else memcpy(out, field->text, field->size);
    return field->size;
}

static size_t count_doubled(const Program *program, const Field *field) {
    size_t count = 0;
    const uint8_t *at = field->text, *past = field->text + field->size;
    while (at < past && (at = memchr(at, program->quote, (size_t)(past - at)))) count++, at += 2;
    return count;
}

/* A value's bytes without their length, at `out`. Returns their number, or -1 where it is not sure. `ascii`: there is
   nothing in the record that is not. `number` receives what orders keys. */
static inline int64_t put_value(const Program *program, const Column *column, const Field *field, int ascii, uint8_t *out,
                         int64_t *number) {
    const uint8_t *text = field->text;
    const size_t size = field->size;
    const int strict = column->flags & STRICT;
    int64_t value = 0;
    if (field->doubled && column->kind < TEXT) return -1;
    switch (column->kind) {
    case TEXT: case JSON: case JSONB: {
        int64_t characters = (int64_t)size;
        if (!ascii && (characters = count_utf8(text, size)) < 0) return -1;
        if (field->doubled) characters -= (int64_t)count_doubled(program, field);
        if (column->flags & BOUNDED && characters > (int64_t)column->limit) return -1;
        if (column->kind == JSONB) *out++ = 1; /* the version of its format */
        return (int64_t)put_text(program, field, out) + (column->kind == JSONB);
    }
    case SMALLINT:
        if (!read_integer(text, size, INT16_MAX, strict, &value)) return -1;
        put16(out, (uint32_t)value);
        *number = value;
        return 2;
    case INTEGER:
        if (!read_integer(text, size, INT32_MAX, strict, &value)) return -1;
        put32(out, (uint32_t)value);
        *number = value;
        return 4;
    case BIGINT:
        if (!read_integer(text, size, INT64_MAX, strict, &value)) return -1;
        put64(out, (uint64_t)value);
        *number = value;
        return 8;
    case NUMERIC: {
        Decimal decimal;
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
            if (decimal.whole_size && !read_digits(decimal.whole, decimal.whole_size, &whole)) return -1;
            if (decimal.fraction_size && !read_digits(decimal.fraction, decimal.fraction_size, &fraction)) return -1;
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
        const int32_t day = read_day(text);
        if (day < 0) return -1;
        put32(out, (uint32_t)(day - EPOCH_OF_POSTGRES));
        *number = day - EPOCH;
        return 4;
    }
    case TIMESTAMP: case TIMESTAMPTZ: {
        const Zone zone = column->kind == TIMESTAMP ? WITHOUT_ZONE : column->flags & UTC ? OFFSET_OR_UTC : OFFSET_NEEDED;
        if (!read_timestamp(text, size, zone, strict, &value)) return -1;
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
        if (field->doubled) return -1;
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
static inline size_t quotes_of(const Program *program, const Field *field) {
    return field->quoted ? 2 + (field->doubled ? 2 * count_doubled(program, field) : 0) : 0;
}

/* What is not loaded has to be well-formed all the same: COPY reads it, too. Counts its quotes. */
static int check_unused(const Job *job, size_t start, int ascii, const Run *run, size_t *quotes) {
    for (uint32_t i = 0; i < job->program->unused_count; i++) {
        const uint32_t place = job->program->unused[i];
        const size_t from = place ? run->ends[place - 1] + 1 : start;
        Field field;
        if (!read_field(job, from, run->ends[place], 1, &field)) return 0;
        if (!ascii && count_utf8(job->data + from, run->ends[place] - from) < 0) return 0;
        *quotes += quotes_of(job->program, &field);
    }
    return 1;
}

/* The tuple of the record whose fields begin at `start` and end at `run->ends`; 0 where it is not sure of it. */
static int put_tuple(const Job *job, size_t start, size_t quotes, int ascii, Run *run) {
    const Program *program = job->program;
    const int64_t number = job->first_record + run->record;
    uint8_t *out = run->out + run->used, digits[20];
    size_t counted = 0; /* quotes around fields and doubled in them: where that is all, the other fields have none */
    put16(out, program->column_count + program->with_position);
    out += 2;
    for (uint32_t i = 0; i < program->column_count; i++) {
        const Column *column = &program->columns[i];
        Field field;
        if (column->field == FROM_RECORD_NUMBER) {
            const Text text = {digits, (uint32_t)put_digits((uint64_t)number, digits)};
            field = field_of(&text);
        } else if (column->field == FROM_CONSTANT) {
            field = field_of(&column->constant);
        } else {
            const size_t from = column->field ? run->ends[column->field - 1] + 1 : start;
            if (!read_field(job, from, run->ends[column->field], quotes != 0, &field)) return 0;
            if (quotes && column->flags & FIRST) counted += quotes_of(program, &field);
            if (field.is_null && column->flags & FILLED) field = field_of(&column->constant);
        }
        if (field.is_null) {
            if (column->flags & (REQUIRED | KEY)) return 0;
            put32(out, UINT32_MAX);
            out += 4;
            continue;
        }
        int64_t key = 0;
        const int64_t size = put_value(program, column, &field, ascii && column->field >= 0, out + 4, &key);
        if (size < 0) return 0;
        if (column->flags & KEY) run->key[column->key_place] = key;
        put32(out, (uint32_t)size);
        out += 4 + size;
    }
    if (program->with_position) {
        put32(out, 8);
        put64(out + 4, (uint64_t)number);
        out += 12;
    }
    if ((quotes || !ascii) && !check_unused(job, start, ascii, run, &counted)) return 0;
    if (counted != quotes) return 0;
    if (program->key_count) follow_keys(program, run);
    run->used = (size_t)(out - run->out);
    run->kept++;
    return 1;
}

static int note_odd(Run *run, size_t start, size_t end) {
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
    size_t quotes;   /* in the block before it */
    int ascii, has_nul; /* of any word of 64 bytes that the record has a part in */
} Pending;

static Outcome end_record(const Job *job, size_t end, size_t quotes, const Pending *pending, Run *run) {
    const Program *program = job->program;
    const size_t length = end - pending->start;
    if (run->room - run->used < program->fixed + program->repeated * length) return NO_ROOM;
    int sure = pending->fields + 1 == program->fields && !pending->has_nul && (length || program->fields == 1);
    if (sure) {
        run->ends[pending->fields] = end;
        sure = put_tuple(job, pending->start, quotes - pending->quotes, pending->ascii, run);
    }
    if (!sure && !note_odd(run, pending->start, end)) return NO_MEMORY;
    run->record++;
    return DONE;
}

Outcome express_run(const Program *program, const uint8_t *data, size_t size, int64_t first_record, Run *run) {
    const Job job = {program, data, size, first_record};
    Pending pending = {run->at, 0, 0, 1, 0};
    size_t counted = 0; /* quotes before the word */
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
        const int beyond = masks.beyond_ascii != 0, has_nul = (masks.nul & within) != 0;
        pending.ascii &= !beyond;
        pending.has_nul |= has_nul;
        const uint64_t line_ends = (masks.lf | masks.cr) & ~quoted & within;
        uint64_t structure = (masks.delimiter & ~quoted & within) | line_ends;
        while (structure) {
            const int bit = first_bit(structure);
            const size_t at = base + (size_t)bit;
            structure &= structure - 1;
            if (!(line_ends >> bit & 1)) {
                if (pending.fields < program->fields) run->ends[pending.fields] = at;
                pending.fields += pending.fields < program->fields;
                continue;
            }
            if (at < pending.start) continue; /* the LF of a CRLF */
            const size_t until = counted + (quotes ? count_bits(quotes & (((uint64_t)1 << bit) - 1)) : 0);
            const Outcome outcome = end_record(&job, at, until, &pending, run);
            if (outcome != DONE) return outcome;
            run->at = at + 1 + (data[at] == '\r' && at + 1 < size && data[at + 1] == '\n');
            const Pending next = {run->at, 0, until, !beyond, has_nul};
            pending = next;
        }
        if (quotes) counted += count_bits(quotes);
    }
    if (pending.start < size) { /* the last record of a file that ends without a line end */
        if (inside) pending.fields = program->fields; /* or in the middle of a quoted field */
        const Outcome outcome = end_record(&job, size, counted, &pending, run);
        if (outcome != DONE) return outcome;
        run->at = size;
    }
    return DONE;
}
