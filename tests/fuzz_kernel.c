/* The kernel under a fuzzer and the sanitizers: whatever the bytes are, nothing is read or written out of bounds.

   The first bytes of an input choose the columns, the others are the file. With libFuzzer this is its target; without
   (-DSTANDALONE) `main` makes inputs at random, from a seed, for as many rounds as it is given, and prints a digest of what
   the kernel made of them: it has to be the same on every processor, and with -DLOADER_PLAIN_C. Or it reads the files that
   it is given: those in tests/data/kernel once found something. See tests/sanitize.py. */
#include "../loader/kernel/express.h"

#include <stdio.h>

#define FIELDS 3
#define CHOICES 24 /* bytes of an input before the file's */
#define STEPS 3
#define CLAUSES 4

#define TEXT_OF(text) {(const uint8_t *)(text), sizeof(text) - 1}

static const Text step_texts[] = {TEXT_OF("a"), TEXT_OF(""), TEXT_OF("ab"), TEXT_OF("b"), TEXT_OF("-12.50"),
                                  TEXT_OF("a text that is longer than the others are, and than thirty-two bytes")};
static const Text formats[] = {TEXT_OF("Y\0\0-m\0\0-d\0"), TEXT_OF("d\0\0 B\0\0 y\0\0 I\0p\0M\0"),
                               TEXT_OF("Y\0j\0\0TH\0\0:M\0\0:S\0\0.f\0z\0"), TEXT_OF("A\0a\0\0 b\0Y\0")};

static uint8_t letters[2 * 0x800]; /* a table that turns the letters of two bytes around */

static int has_moments(const Column *column) { return column->kind >= DATE && column->kind <= TIME; }

/* The work of one column, as far as `module.c` would let it pass. Returns the bytes that its texts may need more. */
static size_t give_work(Column *column, Step *steps, const uint8_t *choice) {
    size_t longest = 0;
    column->steps = steps;
    column->step_count = choice[0] % (STEPS + 1);
    for (uint32_t i = 0; i < column->step_count; i++) {
        steps[i].kind = (choice[0] >> (2 + 2 * i) ^ choice[1]) % STEP_KINDS;
        steps[i].texts = &step_texts[choice[1] % 3];
        steps[i].text_count = 2;
        if (steps[i].kind == REPLACE) steps[i].texts = &step_texts[choice[1] & 1 ? 0 : 2];
        if (steps[i].kind == MAP) {
            steps[i].texts = step_texts;
            steps[i].text_count = 6;
            longest = step_texts[5].size;
        }
    }
    if (has_moments(column) && choice[1] & 128) column->format = formats[choice[1] % 4];
    return longest;
}

/* A condition in postfix order of clauses that fit their operands, which are the columns. */
static uint32_t make_clauses(Clause *clauses, Operand *operands, const Column *columns, const uint8_t *choice) {
    uint32_t count = 0, top = 0;
    for (uint32_t i = 0; i < FIELDS; i++) operands[i] = (Operand){columns[i].kind, columns[i].scale};
    for (uint32_t i = 0; i < CLAUSES; i++) {
        Clause clause = {choice[i] % CLAUSE_KINDS, choice[i] >> 7, (choice[i] >> 3) % FIELDS, -5, 40, step_texts[i]};
        const uint8_t kind = columns[clause.operand].kind;
        if (clause.kind == WITHIN_FLOATS && kind != SINGLE && kind != DOUBLE) clause.kind = BESIDE_TEXT;
        if (clause.kind == WITHIN && (kind == SINGLE || kind == DOUBLE || kind > TIME)) clause.kind = BESIDE_TEXT;
        if (clause.kind == TRUTH) clause.low = choice[i] >> 3 & 1;
        if (top < (clause.kind == AND || clause.kind == OR ? 2u : clause.kind == NOT)) continue;
        top += clause.kind == AND || clause.kind == OR ? -1 : clause.kind != NOT;
        clauses[count++] = clause;
    }
    for (; top > 1; top--) clauses[count++] = (Clause){AND, 0, 0, 0, 0, step_texts[0]};
    if (count && !is_condition(clauses, count, operands, FIELDS)) abort();
    return count;
}

static Program program_of(const uint8_t *choice, Column *columns, Text *nulls, uint32_t *unused, Text *labels,
                          Step *steps, Operand *operands, Clause *clauses) {
    Program program;
    memset(&program, 0, sizeof program);
    program.delimiter = choice[0] & 1 ? ',' : ';';
    program.has_quote = (choice[0] & 2) != 0;
    program.quote = program.has_quote ? '"' : 0;
    program.with_position = (choice[0] & 4) != 0;
    program.fields = FIELDS;
    program.null_count = 1;
    nulls[0].text = (const uint8_t *)"NULL";
    nulls[0].size = choice[0] & 8 ? 4 : 0;
    program.only_empty_is_null = nulls[0].size == 0;
    program.nulls = nulls;
    labels[0].text = (const uint8_t *)"sad";
    labels[0].size = 3;
    static Shift shifts[2] = {{INT64_C(1704067200000000), INT64_C(3600000000)}, {INT64_C(1709164800000000), UNSURE}};
    static Zone zones[2] = {{1, INT64_C(-3600000000), {0}, NULL}, {0, 0, {0}, shifts}}; /* the second one knows 2024 */
    for (int year = 2025 - FIRST_YEAR; year <= YEARS; year++) zones[1].first[year] = 2;
    program.fixed = 2 + 12 + SPILL;
    program.repeated = 0;
    uint32_t times[FIELDS] = {0};
    for (uint32_t i = 0; i < FIELDS; i++) {
        Column *column = &columns[i];
        memset(column, 0, sizeof *column);
        column->kind = choice[1 + i] % KINDS;
        column->field = (int32_t)(choice[4 + i] % FIELDS);
        column->flags = (uint8_t)(choice[7 + i] & (STRICT | REQUIRED | LOCAL | BOUNDED));
        column->precision = 15;
        column->scale = 2;
        column->limit = 5;
        column->labels = labels;
        column->label_count = 1;
        column->zone = &zones[choice[11] % 2];
        if (!times[column->field]) column->flags |= FIRST;
        times[column->field]++;
        if (times[column->field] > program.repeated) program.repeated = times[column->field];
        program.fixed += 4 + 20 + give_work(column, steps + i * STEPS, choice + 12 + 2 * i);
        program.longest = step_texts[5].size;
        program.has_steps = 1;
        column->operand = i + 1;
        if (column->kind == NUMERIC && choice[23] & 1) column->flags |= BOUNDED;
    }
    int sound = (choice[23] & 1) != 0;
    for (uint32_t i = 0; i < FIELDS; i++) sound &= columns[i].kind != NUMERIC || (columns[i].flags & BOUNDED) != 0;
    program.operand_count = FIELDS;
    program.clause_count = sound ? make_clauses(clauses, operands, columns, choice + 18) : 0;
    program.operands = operands;
    program.marks_filtered = choice[23] >> 2 & 1;
    for (uint32_t i = 0; i < 0x800; i++) letters[2 * i] = (uint8_t)~i, letters[2 * i + 1] = (uint8_t)(~i >> 8 & 7);
    program.cases[0] = program.cases[1] = (Text){letters, choice[23] & 2 ? sizeof letters : 0};
    program.clauses = clauses;
    for (uint32_t field = 0; field < FIELDS; field++)
        if (!times[field]) unused[program.unused_count++] = field;
    program.unused = unused;
    program.column_count = FIELDS;
    program.columns = columns;
    static Locale locale;
    if (!locale) locale = c_locale();
    program.locale = locale;
    return program;
}

static uint64_t digest = UINT64_C(0xCBF29CE484222325); /* of all that was made: FNV-1a */

static void note(const void *bytes, size_t size) {
    const uint8_t *at = bytes;
    for (size_t i = 0; i < size; i++) digest = (digest ^ at[i]) * UINT64_C(0x100000001B3);
}

/* Tuples taken apart and put together, as they are and with one byte of theirs changed. */
static void take_apart(const uint8_t *made, size_t size, size_t records, const uint8_t *choice) {
    const uint8_t open[] = {choice[0] & 1, choice[0] >> 1 & 1, choice[0] >> 2 & 1, 0};
    const uint32_t fields = FIELDS + (choice[0] >> 3 & 1), opened = open[0] + open[1] + open[2];
    uint8_t *copy = malloc(size ? size : 1), *out = malloc(2 * size + 1), *kept = malloc(records + 1);
    uint64_t *places = malloc((records * (1 + opened) + 1) * sizeof(uint64_t));
    memcpy(copy, made, size);
    memset(kept, choice[1] & 1, records + 1);
    if (size && choice[0] & 16) copy[(choice[1] << 8 | choice[2]) % size] = choice[3];
    const Tuples tuples = {copy, copy + size};
    size_t sizes[FIELDS] = {0};
    if (find_places(tuples, open, fields, records, places, sizes)) {
        for (uint32_t i = 0; i < opened; i++) {
            Texts texts = {malloc((records + 1) * sizeof(int32_t)), malloc(sizes[i] + 1), calloc(records / 8 + 1, 1)};
            take_texts(copy, places, opened, i, records, texts);
            if (texts.ends[records] != (int32_t)sizes[i]) abort();
            free(texts.ends);
            free(texts.bytes);
            free(texts.valid);
        }
        if (records && choice[0] & 32) places[(size_t)choice[2] % (records * (1 + opened) + 1)] = choice[3];
        const int64_t together = put_together(tuples, tuples, places, opened, kept, records, out);
        if (together > (int64_t)(2 * size)) abort();
        const Tuples none = {copy, copy};
        if (!opened && put_together(tuples, none, places, opened, kept, records, out) > (int64_t)size) abort();
    }
    free(copy);
    free(out);
    free(kept);
    free(places);
}

typedef Outcome (*Pass)(const Program *, const uint8_t *, size_t, int64_t, Run *);

/* Gives the number of records. `choice`: what is done with the tuples, nothing where they are none. */
static int64_t run_through(Pass pass, const Program *program, const uint8_t *data, size_t size, size_t room, const uint8_t *choice) {
    size_t ends[FIELDS + ENDS_ROOM];
    Run run;
    memset(&run, 0, sizeof run);
    run.rising = 1;
    run.ends = ends;
    const uint8_t *values[FIELDS];
    run.values = values;
    run.scratch = malloc(scratch_size(program, size));
    run.spare = malloc(scratch_size(program, size));
    uint8_t *out = malloc(room);
    for (;;) {
        run.out = out;
        run.room = room;
        if (pass(program, data, size, 1, &run) == DONE) break;
        room += room / 2 + program->fixed;
        out = realloc(out, room);
    }
    if (run.used > room || run.at != size || run.kept + run.filtered + (int64_t)run.odd_count != run.record) abort();
    for (size_t i = 0; i < run.odd_count; i++)
        if (run.odd[i].start > run.odd[i].end || run.odd[i].end > (int64_t)size) abort();
    note(out, run.used);
    note(run.odd, run.odd_count * sizeof(Odd));
    if (choice) take_apart(out, run.used, (size_t)(run.kept + (program->marks_filtered ? run.filtered : 0)), choice);
    free(run.odd);
    free(run.scratch);
    free(run.spare);
    free(out);
    return run.record;
}

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size) {
    if (size < CHOICES) return 0;
    Column columns[FIELDS];
    Text nulls[1], labels[1];
    uint32_t unused[FIELDS];
    Step steps[FIELDS * STEPS];
    Operand operands[FIELDS];
    Clause clauses[2 * CLAUSES];
    const Program program = program_of(input, columns, nulls, unused, labels, steps, operands, clauses);
    const size_t room = 1 + input[11];
    size -= CHOICES;
    uint8_t *data = malloc(size ? size : 1); /* of just that size: a byte too far is seen */
    memcpy(data, input + CHOICES, size);
    Scan scan;
    express_scan(data, size, program.delimiter, program.quote, program.has_quote, input[10] & 1, &scan);
    if (scan.cut > size) abort();
    const int64_t records = run_through(express_run, &program, data, size, room, input + 19);
    if (run_through(text_run, &program, data, size, room, NULL) != records) abort();
    express_scan(data, size, program.delimiter, program.quote, program.has_quote, 1, &scan);
    if (!scan.open && scan.records != (size_t)records) abort();
    const uint64_t scanned[7] = {scan.cut, scan.records, scan.lines, scan.shortest, scan.longest, (uint64_t)scan.open,
                                (uint64_t)scan.regular};
    note(scanned, sizeof scanned);
    free(data);
    return 0;
}

#if defined(STANDALONE)
static uint64_t state;

static uint32_t roll(uint32_t sides) {
    state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)(state >> 33) % sides;
}

static int run_file(const char *path) {
    uint8_t input[4096];
    FILE *file = fopen(path, "rb");
    if (!file) return 0;
    LLVMFuzzerTestOneInput(input, fread(input, 1, sizeof input, file));
    fclose(file);
    return 1;
}

int main(int count, char **arguments) {
    static const char *const pieces[] = {",", ";", "\"", "\"\"", "\n", "\r\n", "\r", "1", "-12.50", "2024-02-29", "12:30:00.5",
        " ", "T", "+05:30", "Z", "true", "00112233-4455-6677-8899-aabbccddeeff", "\\x00ff", "{}", "sad", "\xc3\xa9", "\xff",
        "$", "US$1,234.5", "(", ")", "EUR ", "\xe2\x82\xac", "\xc2\xa0", "\xe3\x80\x80", "ab", "29 February 24 11pm59", "Monday", "feb",
        "2024060T23:59:58.123+0530", "FridayFri Feb2024", "\xe2\x80\x83 x\xe1\x9a\x80", "( $5 USD) ", "1", "0", "7", "-3.25",
        "e-5", "0.1", "99999999999999999999", "NULL", "a text of some length, with more than thirty-two bytes in it", "9", ".",
        "\xe2\x82\xac", "\xf0\x9f\x98\x80", "\xed\xa0", "\xe2", "2.2250738585072014e-308", "17.25", "1234567.125", "\t", " UTC",
        "2024-02-29 12:30:00", "another text, of more than sixty-four bytes, for the words that have nothing to find in them"};
    const long rounds = count > 1 ? atol(arguments[1]) : 100000;
    if (!rounds) {
        for (int i = 1; i < count; i++)
            if (!run_file(arguments[i])) return 2;
        return 0;
    }
    state = count > 2 ? (uint64_t)atoll(arguments[2]) : 1;
    uint8_t input[4096];
    for (long round = 0; round < rounds; round++) {
        size_t size = CHOICES;
        for (size_t i = 0; i < CHOICES; i++) input[i] = (uint8_t)roll(256);
        const int in_fields = roll(2); /* records of as many fields as there are columns, each of one piece */
        if (in_fields) input[0] |= 3;
        for (uint32_t left = roll(120), place = 0; left; left--, place++) {
            const char *piece = pieces[roll(sizeof pieces / sizeof *pieces)];
            if (in_fields && place % 2) piece = place % (2 * FIELDS) == 2 * FIELDS - 1 ? "\n" : ",";
            const size_t length = strlen(piece);
            if (size + length + 1 > sizeof input) break;
            memcpy(input + size, piece, length);
            size += length;
            if (roll(200) == 0) input[size++] = (uint8_t)roll(256);
        }
        LLVMFuzzerTestOneInput(input, size);
    }
    printf("%ld inputs, nothing out of bounds; what was made: %016llx\n", rounds, (unsigned long long)digest);
    return 0;
}
#endif
