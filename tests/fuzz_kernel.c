/* The kernel under a fuzzer and the sanitizers: whatever the bytes are, nothing is read or written out of bounds.

   The first bytes of an input choose the columns, the others are the file. With libFuzzer this is its target; without
   (-DSTANDALONE) `main` makes inputs at random, from a seed, for as many rounds as it is given, or reads the files that it
   is given: those in tests/data/kernel once found something. See tests/sanitize.py. */
#include "../loader/kernel/express.h"

#include <stdio.h>

#define FIELDS 3

static Program program_of(const uint8_t *choice, Column *columns, Text *nulls, uint32_t *unused, Text *labels) {
    Program program;
    memset(&program, 0, sizeof program);
    program.delimiter = choice[0] & 1 ? ',' : ';';
    program.quote = '"';
    program.has_quote = (choice[0] & 2) != 0;
    program.with_position = (choice[0] & 4) != 0;
    program.fields = FIELDS;
    program.null_count = 1;
    nulls[0].text = (const uint8_t *)"NULL";
    nulls[0].size = choice[0] & 8 ? 4 : 0;
    program.only_empty_is_null = nulls[0].size == 0;
    program.nulls = nulls;
    labels[0].text = (const uint8_t *)"sad";
    labels[0].size = 3;
    program.fixed = 2 + 12 + SPILL;
    program.repeated = 0;
    uint32_t times[FIELDS] = {0};
    for (uint32_t i = 0; i < FIELDS; i++) {
        Column *column = &columns[i];
        memset(column, 0, sizeof *column);
        column->kind = choice[1 + i] % KINDS;
        column->field = (int32_t)(choice[4 + i] % FIELDS);
        column->flags = (uint8_t)(choice[7 + i] & (STRICT | REQUIRED | UTC | BOUNDED));
        column->precision = 15;
        column->scale = 2;
        column->limit = 5;
        column->labels = labels;
        column->label_count = 1;
        if (!times[column->field]) column->flags |= FIRST;
        times[column->field]++;
        if (times[column->field] > program.repeated) program.repeated = times[column->field];
        program.fixed += 4 + 20;
    }
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

static uint64_t digest = UINT64_C(14695981039346656037); /* FNV-1a, of all that was made: the same on every processor */

static void note(const void *bytes, size_t size) {
    for (size_t i = 0; i < size; i++) digest = (digest ^ ((const uint8_t *)bytes)[i]) * UINT64_C(1099511628211);
}

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size) {
    if (size < 12) return 0;
    Column columns[FIELDS];
    Text nulls[1], labels[1];
    uint32_t unused[FIELDS];
    const Program program = program_of(input, columns, nulls, unused, labels);
    size_t room = 1 + input[11];
    size -= 12;
    uint8_t *data = malloc(size ? size : 1); /* of just that size: a byte too far is seen */
    memcpy(data, input + 12, size);
    Scan scan;
    express_scan(data, size, program.delimiter, program.quote, program.has_quote, input[10] & 1, &scan);
    if (scan.cut > size) abort();
    size_t ends[FIELDS + 1];
    Run run;
    memset(&run, 0, sizeof run);
    run.rising = 1;
    run.ends = ends;
    uint8_t *out = malloc(room);
    for (;;) {
        run.out = out;
        run.room = room;
        if (express_run(&program, data, size, 1, &run) == DONE) break;
        room += room / 2 + program.fixed;
        out = realloc(out, room);
    }
    if (run.used > room || run.at != size || run.kept + (int64_t)run.odd_count != run.record) abort();
    for (size_t i = 0; i < run.odd_count; i++)
        if (run.odd[i].start > run.odd[i].end || run.odd[i].end > (int64_t)size) abort();
    express_scan(data, size, program.delimiter, program.quote, program.has_quote, 1, &scan);
    if (!scan.open && scan.records != (size_t)run.record) abort();
    note(out, run.used);
    note(run.odd, run.odd_count * sizeof(Odd));
    free(run.odd);
    free(out);
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
        "e-5", "0.1", "99999999999999999999", "NULL", "a text of some length, with more than thirty-two bytes in it", "9", "."};
    const long rounds = count > 1 ? atol(arguments[1]) : 100000;
    if (!rounds) {
        for (int i = 1; i < count; i++)
            if (!run_file(arguments[i])) return 2;
        return 0;
    }
    state = count > 2 ? (uint64_t)atoll(arguments[2]) : 1;
    uint8_t input[4096];
    for (long round = 0; round < rounds; round++) {
        size_t size = 12;
        for (size_t i = 0; i < 12; i++) input[i] = (uint8_t)roll(256);
        for (uint32_t left = roll(120); left; left--) {
            const char *piece = pieces[roll(sizeof pieces / sizeof *pieces)];
            const size_t length = strlen(piece);
            if (size + length + 1 > sizeof input) break;
            memcpy(input + size, piece, length);
            size += length;
            if (roll(200) == 0) input[size++] = (uint8_t)roll(256);
        }
        LLVMFuzzerTestOneInput(input, size);
    }
    printf("%ld inputs, nothing out of bounds; what was made of them: %016llx\n", rounds, (unsigned long long)digest);
    return 0;
}
#endif
