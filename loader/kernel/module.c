/* The express lane as a Python module: compile(program) and run(program, data, ...). See loader/kernel/compiled.py.

   Not for the stable ABI: that cannot shrink a bytes object, and copying it instead takes 3 % of the time. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "express.h"

#define NAME "loader.kernel._express.Program"

/* --- compile: a program as loader.kernel packs it → one that `express_run` follows */

typedef struct {
    const uint8_t *at, *end;
    int failed;
} Reader;

static uint32_t read_u32(Reader *reader) {
    if (reader->end - reader->at < 4) return reader->failed = 1, 0;
    const uint8_t *at = reader->at;
    reader->at += 4;
    return (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

static uint64_t read_u64(Reader *reader) {
    const uint64_t low = read_u32(reader);
    return low | (uint64_t)read_u32(reader) << 32;
}

static int64_t read_i64(Reader *reader) {
    return (int64_t)read_u64(reader);
}

static uint8_t read_u8(Reader *reader) {
    if (reader->end == reader->at) return reader->failed = 1, 0;
    return *reader->at++;
}

static Text read_text(Reader *reader) {
    Text text = {reader->at, read_u32(reader)};
    text.text = reader->at;
    if ((size_t)(reader->end - reader->at) < text.size) return reader->failed = 1, text.size = 0, text;
    reader->at += text.size;
    return text;
}

typedef struct {
    Program program;
    uint8_t *source;
    Text *texts;
    Column *columns;
    uint32_t *unused;
    Zone *zones;
    uint32_t zone_count;
    Step *steps;
    Operand *operands;
    Clause *clauses;
} Compiled;

static void discard(Compiled *compiled) {
    if (!compiled) return;
#if defined(_WIN32)
    if (compiled->program.locale) _free_locale(compiled->program.locale);
#else
    if (compiled->program.locale) freelocale(compiled->program.locale);
#endif
    for (uint32_t i = 0; compiled->zones && i < compiled->zone_count; i++) free(compiled->zones[i].shifts);
    free(compiled->zones);
    free(compiled->source);
    free(compiled->texts);
    free(compiled->columns);
    free(compiled->unused);
    free(compiled->steps);
    free(compiled->operands);
    free(compiled->clauses);
    free(compiled);
}

static void discard_capsule(PyObject *capsule) { discard(PyCapsule_GetPointer(capsule, NAME)); }

static int is_sound(const Program *program, const Column *column) {
    if (column->kind >= KINDS || column->field < FROM_RECORD_NUMBER) return 0;
    if (column->field >= 0 && (uint32_t)column->field >= program->fields) return 0;
    if (column->scale < 0 || column->precision < column->scale || column->precision > 1000) return 0;
    if (column->flags & KEY) {
        if (column->key_place >= program->key_count) return 0;
        if (column->kind == NUMERIC && !(column->flags & BOUNDED && column->precision <= 18)) return 0;
    }
    return 1;
}

static size_t size_at_most(const Column *column) {
    size_t size = column->kind == NUMERIC ? 4 + 14 : 4 + 16;
    if (column->field < 0 || column->flags & FILLED) size += column->constant.size + 20;
    return size;
}

static int is_as_long_as_text(const Column *column) {
    return column->kind == NUMERIC || column->kind >= BYTEA;
}

/* A zone as loader.convert.lanes.kernel_zones packs it: its fixed offset, or the years that are known, in order, with their shifts. 0 and
   -1 as for `read_program`. */
static int read_offsets(Reader *reader, Zone *zone) {
    zone->is_fixed = read_u8(reader);
    if (zone->is_fixed) {
        zone->fixed = read_i64(reader);
        return !reader->failed;
    }
    const uint32_t total = read_u32(reader), years = read_u32(reader);
    if (reader->failed || total > (size_t)(reader->end - reader->at) / 16) return 0;
    if (!(zone->shifts = calloc(total + 1, sizeof(Shift)))) return -1;
    uint32_t place = 0, filled = 0; /* the next year, and shifts of those before */
    for (uint32_t i = 0; i < years; i++) {
        const uint32_t year = read_u32(reader), count = read_u32(reader);
        if (reader->failed || year < place || year >= YEARS || count > total - filled) return 0;
        for (; place <= year; place++) zone->first[place] = filled;
        for (uint32_t j = 0; j < count; j++) {
            Shift *shift = &zone->shifts[filled++];
            shift->since = read_i64(reader);
            shift->offset = read_i64(reader);
        }
    }
    for (; place <= YEARS; place++) zone->first[place] = filled;
    return !reader->failed && filled == total;
}

static int read_zones(Compiled *compiled, Reader *reader) {
    const uint32_t count = read_u32(reader);
    if (reader->failed || count > (size_t)(reader->end - reader->at) / 9) return 0;
    compiled->zones = calloc((size_t)count + 1, sizeof(Zone));
    if (!compiled->zones) return -1;
    compiled->zone_count = count;
    for (uint32_t i = 0; i < count; i++) {
        const int read = read_offsets(reader, &compiled->zones[i]);
        if (read != 1) return read;
    }
    return 1;
}

static int is_sound_step(const Step *step) {
    switch (step->kind) {
    case REPLACE: return step->text_count == 2 && step->texts[0].size && step->texts[1].size <= step->texts[0].size;
    case MAP: return step->text_count % 2 == 0;
    default: return step->kind < STEP_KINDS;
    }
}

/* A column's steps. Returns the bytes of the longest text that they may make of whatever there is; -1 where they make no
   sense. */
static int64_t read_steps(Reader *reader, Column *column, Step *step, Text **text) {
    int64_t longest = 0;
    column->steps = step;
    for (uint32_t i = 0; i < column->step_count && !reader->failed; i++, step++) {
        step->kind = read_u8(reader);
        step->text_count = read_u32(reader);
        step->texts = *text;
        for (uint32_t j = 0; j < step->text_count && !reader->failed; j++) {
            *(*text)++ = read_text(reader);
            if (step->kind == MAP && step->texts[j].size > longest) longest = step->texts[j].size;
        }
        if (reader->failed || !is_sound_step(step)) return -1;
    }
    return longest;
}

static int read_clauses(Reader *reader, Compiled *compiled, Text **text) {
    Program *program = &compiled->program;
    for (uint32_t i = 0; i < program->clause_count; i++) {
        Clause *clause = &compiled->clauses[i];
        clause->kind = read_u8(reader);
        clause->negated = read_u8(reader);
        clause->operand = read_u32(reader);
        clause->low = (int64_t)read_u64(reader);
        clause->high = (int64_t)read_u64(reader);
        clause->text = *(*text)++ = read_text(reader);
    }
    if (reader->failed) return 0;
    program->operands = compiled->operands;
    program->clauses = compiled->clauses;
    return !program->clause_count ||
           is_condition(program->clauses, program->clause_count, program->operands, program->operand_count);
}

static int is_sound_operand(const Column *column) {
    return column->kind != NUMERIC || (column->flags & BOUNDED && column->precision <= 18);
}

static int has_moments(const Column *column) {
    return column->kind == DATE || column->kind == TIMESTAMP || column->kind == TIMESTAMPTZ || column->kind == TIME;
}

/* What follows the columns: whether filtered records are marked, the tables of letters, for each column its steps, its format and what the filter calls it, and then the filter. 0 where it
   makes no sense, -1 without memory. */
static int read_work(Reader *reader, Compiled *compiled, size_t size, Text *text) {
    Program *program = &compiled->program;
    compiled->steps = calloc(size / 5 + 1, sizeof(Step)); /* each takes five bytes at least, and a clause more */
    compiled->operands = calloc(program->column_count + 1, sizeof(Operand));
    compiled->clauses = calloc(size / 5 + 1, sizeof(Clause));
    if (!compiled->steps || !compiled->operands || !compiled->clauses) return -1;
    Step *step = compiled->steps;
    program->marks_filtered = read_u8(reader);
    for (int i = 0; i < 2; i++) program->cases[i] = read_text(reader);
    for (uint32_t i = 0; i < program->column_count && !reader->failed; i++) {
        Column *column = &compiled->columns[i];
        column->step_count = read_u32(reader);
        if ((size_t)(reader->end - reader->at) / 5 < column->step_count) return 0;
        const int64_t longest = read_steps(reader, column, step, &text);
        if (longest < 0) return 0;
        step += column->step_count;
        program->fixed += (size_t)longest;
        if ((size_t)longest > program->longest) program->longest = (size_t)longest;
        program->has_steps |= column->step_count != 0;
        column->format = *text++ = read_text(reader);
        if (column->format.size && (!is_format(&column->format) || !has_moments(column))) return 0;
        if (!read_u8(reader)) continue;
        const Operand operand = {column->kind, column->scale};
        if (!is_sound_operand(column)) return 0;
        compiled->operands[program->operand_count++] = operand;
        column->operand = program->operand_count;
    }
    program->clause_count = read_u32(reader);
    if (reader->failed || (size_t)(reader->end - reader->at) / 5 < program->clause_count) return 0;
    return read_clauses(reader, compiled, &text);
}

/* Everything but the texts' bytes, which stay in `source`. 0 where the program makes no sense, -1 without memory. */
static int read_program(Compiled *compiled, size_t size) {
    Program *program = &compiled->program;
    Reader reader = {compiled->source, compiled->source + size, 0};
    program->delimiter = read_u8(&reader);
    program->quote = read_u8(&reader);
    program->has_quote = read_u8(&reader);
    program->with_position = read_u8(&reader);
    program->fields = read_u32(&reader);
    program->column_count = read_u32(&reader);
    program->null_count = read_u32(&reader);
    program->key_count = read_u32(&reader);
    if (!program->has_quote) program->quote = 0;
    /* each text takes four bytes of the source at least, and each column more */
    if (reader.failed || program->column_count > size / 4 || program->fields > 1 << 20 || !program->fields) return 0;
    compiled->texts = calloc(size / 4 + 1, sizeof(Text));
    compiled->columns = calloc(program->column_count + 1, sizeof(Column));
    compiled->unused = calloc(program->fields, sizeof(uint32_t)); /* first, how often each field is used */
    if (!compiled->texts || !compiled->columns || !compiled->unused) return -1;
    Text *text = compiled->texts;
    program->nulls = text;
    for (uint32_t i = 0; i < program->null_count && !reader.failed; i++) *text++ = read_text(&reader);
    program->only_empty_is_null = program->null_count == 1 && !program->nulls[0].size;
    const int zones = reader.failed ? 0 : read_zones(compiled, &reader);
    if (zones != 1) return zones;
    uint32_t keys = 0;
    program->fixed = 2 + 12 + SPILL;
    for (uint32_t i = 0; i < program->column_count && !reader.failed; i++) {
        Column *column = &compiled->columns[i];
        column->kind = read_u8(&reader);
        column->flags = read_u8(&reader);
        column->field = (int32_t)read_u32(&reader);
        column->precision = (int32_t)read_u32(&reader);
        column->scale = (int32_t)read_u32(&reader);
        column->limit = read_u32(&reader);
        column->key_place = read_u32(&reader);
        column->constant = read_text(&reader);
        column->label_count = read_u32(&reader);
        column->labels = text;
        for (uint32_t j = 0; j < column->label_count && !reader.failed; j++) *text++ = read_text(&reader);
        if (reader.failed || !is_sound(program, column)) return 0;
        if (column->flags & LOCAL) {
            if (column->limit >= compiled->zone_count) return 0;
            column->zone = &compiled->zones[column->limit];
        }
        keys += (column->flags & KEY) != 0;
        program->fixed += size_at_most(column);
        if (column->field >= 0) {
            const uint32_t times = compiled->unused[column->field] += is_as_long_as_text(column) ? 1 : 0;
            if (times > program->repeated) program->repeated = times;
        }
    }
    const int worked = reader.failed ? 0 : read_work(&reader, compiled, size, text);
    if (worked <= 0) return worked;
    if (reader.failed || reader.at != reader.end || keys != program->key_count) return 0;
    memset(compiled->unused, 0, program->fields * sizeof(uint32_t));
    for (uint32_t i = 0; i < program->column_count; i++) {
        Column *column = &compiled->columns[i];
        if (column->field < 0) continue;
        if (!compiled->unused[column->field]) column->flags |= FIRST;
        compiled->unused[column->field] = 1;
    }
    for (uint32_t field = 0; field < program->fields; field++)
        if (!compiled->unused[field]) compiled->unused[program->unused_count++] = field;
    program->columns = compiled->columns;
    program->unused = compiled->unused;
    program->locale = c_locale();
    return program->locale ? 1 : -1;
}

static PyObject *compile_program(PyObject *module, PyObject *argument) {
    char *source;
    Py_ssize_t size;
    (void)module;
    if (PyBytes_AsStringAndSize(argument, &source, &size) < 0) return NULL;
    Compiled *compiled = calloc(1, sizeof(Compiled));
    if (!compiled || !(compiled->source = malloc((size_t)size + 1))) {
        discard(compiled);
        return PyErr_NoMemory();
    }
    memcpy(compiled->source, source, (size_t)size);
    const int made = read_program(compiled, (size_t)size);
    PyObject *capsule = made == 1 ? PyCapsule_New(compiled, NAME, discard_capsule) : NULL;
    if (!capsule) {
        discard(compiled);
        if (made < 0) PyErr_NoMemory();
        else if (!made) PyErr_SetString(PyExc_ValueError, "the program makes no sense");
    }
    return capsule;
}

/* --- run */

#define ROOM_MORE (64 << 10)

static int allocate_scratch(const Program *program, size_t size, Run *run) {
    run->ends = malloc((program->fields + ENDS_ROOM) * sizeof(size_t));
    run->first_key = calloc(3 * (size_t)program->key_count + 1, sizeof(int64_t));
    run->last_key = run->first_key ? run->first_key + program->key_count : NULL;
    run->key = run->first_key ? run->last_key + program->key_count : NULL;
    run->values = calloc(program->operand_count + 1, sizeof(uint8_t *));
    if (program->has_steps && !(run->scratch = malloc(2 * scratch_size(program, size)))) return 0;
    if (run->scratch) run->spare = run->scratch + scratch_size(program, size);
    return run->ends && run->first_key && run->values;
}

typedef Outcome (*Pass)(const Program *, const uint8_t *, size_t, int64_t, Run *);

/* Fills `*made`, a bytes object, growing it as needed. */
static int fill(Pass pass, const Program *program, const Py_buffer *data, int64_t first_record, Run *run, PyObject **made) {
    for (;;) {
        Outcome outcome;
        run->out = (uint8_t *)PyBytes_AsString(*made);
        run->room = (size_t)PyBytes_Size(*made);
        Py_BEGIN_ALLOW_THREADS
        outcome = pass(program, data->buf, (size_t)data->len, first_record, run);
        Py_END_ALLOW_THREADS
        if (outcome == DONE) return _PyBytes_Resize(made, (Py_ssize_t)run->used);
        if (outcome == NO_MEMORY) {
            PyErr_NoMemory();
            return -1;
        }
        if (_PyBytes_Resize(made, (Py_ssize_t)(run->room + run->room / 2 + program->fixed + ROOM_MORE)) < 0) return -1;
    }
}

static PyObject *result_of(const Program *program, const Run *run, PyObject *made) {
    const Py_ssize_t keys = (Py_ssize_t)(program->key_count * sizeof(int64_t));
    const char *first = (const char *)run->first_key, *last = (const char *)run->last_key;
    static const uint64_t none[YEARS / 64 + 1];
    const char *years = memcmp(run->years, none, sizeof none) ? (const char *)run->years : NULL;
    return Py_BuildValue("OLLLy#Ny#y#y#", made, (long long)run->record, (long long)run->kept,
                         (long long)run->filtered, (const char *)run->odd, (Py_ssize_t)(run->odd_count * sizeof(Odd)), PyBool_FromLong(run->rising), first, keys, last, keys,
                         years, (Py_ssize_t)sizeof none);
}

static PyObject *run_pass(PyObject *arguments, Pass pass) {
    PyObject *capsule, *made, *result = NULL;
    Py_buffer data;
    long long first_record;
    Py_ssize_t expected;
    if (!PyArg_ParseTuple(arguments, "Oy*Ln", &capsule, &data, &first_record, &expected)) return NULL;
    const Compiled *compiled = PyCapsule_GetPointer(capsule, NAME);
    Run run = {0};
    run.rising = 1;
    made = compiled ? PyBytes_FromStringAndSize(NULL, expected < ROOM_MORE ? ROOM_MORE : expected) : NULL;
    if (made && !allocate_scratch(&compiled->program, (size_t)data.len, &run)) {
        PyErr_NoMemory();
    } else if (made && fill(pass, &compiled->program, &data, first_record, &run, &made) == 0) {
        result = result_of(&compiled->program, &run, made);
    }
    Py_XDECREF(made);
    free(run.ends);
    free(run.first_key);
    free(run.odd);
    free(run.scratch);
    free(run.values);
    PyBuffer_Release(&data);
    return result;
}

static PyObject *run_program(PyObject *module, PyObject *arguments) {
    (void)module;
    return run_pass(arguments, express_run);
}

static PyObject *text_program(PyObject *module, PyObject *arguments) {
    (void)module;
    return run_pass(arguments, text_run);
}

/* --- texts and assemble */

/* The buffers of an open column's texts, as Python has them and as C does. */
static PyObject *new_texts(size_t size, size_t records, Texts *texts) {
    if (size > INT32_MAX) return PyErr_Format(PyExc_OverflowError, "the texts of a block are too long");
    PyObject *made = Py_BuildValue("NNN", PyBytes_FromStringAndSize(NULL, (Py_ssize_t)((records + 1) * sizeof(int32_t))),
                                   PyBytes_FromStringAndSize(NULL, (Py_ssize_t)size),
                                   PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(records / 8 + 1)));
    if (!made) return NULL;
    texts->ends = (int32_t *)PyBytes_AS_STRING(PyTuple_GET_ITEM(made, 0));
    texts->bytes = (uint8_t *)PyBytes_AS_STRING(PyTuple_GET_ITEM(made, 1));
    texts->valid = (uint8_t *)PyBytes_AS_STRING(PyTuple_GET_ITEM(made, 2));
    memset(texts->valid, 0, records / 8 + 1);
    return made;
}

static PyObject *list_of_texts(const uint8_t *tuples, const uint64_t *places, const size_t *sizes, uint32_t opened,
                               size_t records) {
    PyObject *list = PyList_New(0);
    for (uint32_t i = 0; list && i < opened; i++) {
        Texts texts = {NULL, NULL, NULL};
        PyObject *made = new_texts(sizes[i], records, &texts);
        if (made) {
            Py_BEGIN_ALLOW_THREADS
            take_texts(tuples, places, opened, i, records, texts);
            Py_END_ALLOW_THREADS
        }
        if (!made || PyList_Append(list, made) < 0) Py_CLEAR(list);
        Py_XDECREF(made);
    }
    return list;
}

static PyObject *texts_of(PyObject *module, PyObject *arguments) {
    Py_buffer data, open;
    Py_ssize_t records;
    PyObject *result = NULL;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "y*y*n", &data, &open, &records)) return NULL;
    const uint8_t *mask = open.buf;
    uint32_t opened = 0;
    for (Py_ssize_t i = 0; i < open.len; i++) opened += mask[i] != 0;
    const int is_sound = open.len < MARKED && records >= 0 && records <= data.len; /* a tuple has two bytes at least */
    const size_t count = is_sound ? (size_t)records * (1 + opened) + 1 : 1;
    PyObject *places = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(count * sizeof(uint64_t)));
    PyObject *marks = PyBytes_FromStringAndSize(NULL, is_sound ? records : 0);
    size_t *sizes = calloc(opened + 1, sizeof(size_t));
    if (!sizes) PyErr_NoMemory();
    if (places && marks && sizes) {
        const Tuples tuples = {data.buf, (const uint8_t *)data.buf + data.len};
        uint64_t *found = (uint64_t *)PyBytes_AS_STRING(places);
        if (is_sound && find_places(tuples, mask, (uint32_t)open.len, (size_t)records, found, sizes)) {
            char *marked = PyBytes_AS_STRING(marks);
            for (Py_ssize_t i = 0; i < records; i++) marked[i] = (char)(tuples.at[found[(size_t)i * (1 + opened)]] >> 7);
            PyObject *list = list_of_texts(tuples.at, found, sizes, opened, (size_t)records);
            if (list) result = Py_BuildValue("NOO", list, marks, places);
        } else {
            PyErr_SetString(PyExc_ValueError, "the tuples make no sense");
        }
    }
    Py_XDECREF(places);
    Py_XDECREF(marks);
    free(sizes);
    PyBuffer_Release(&data);
    PyBuffer_Release(&open);
    return result;
}

static PyObject *assemble(PyObject *module, PyObject *arguments) {
    Py_buffer data, others, places, kept;
    int64_t size = -1;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "y*y*y*y*", &data, &others, &places, &kept)) return NULL;
    const Tuples tuples = {data.buf, (const uint8_t *)data.buf + data.len};
    const Tuples made = {others.buf, (const uint8_t *)others.buf + others.len};
    const Py_ssize_t width = kept.len ? (places.len / (Py_ssize_t)sizeof(uint64_t) - 1) / kept.len : 1;
    const int is_sound = width >= 1 && places.len == (width * kept.len + 1) * (Py_ssize_t)sizeof(uint64_t);
    PyObject *result = PyBytes_FromStringAndSize(NULL, data.len + others.len);
    if (result && is_sound) {
        uint8_t *out = (uint8_t *)PyBytes_AS_STRING(result);
        Py_BEGIN_ALLOW_THREADS
        size = put_together(tuples, made, places.buf, (uint32_t)(width - 1), kept.buf, (size_t)kept.len, out);
        Py_END_ALLOW_THREADS
    }
    if (result && size < 0) {
        PyErr_SetString(PyExc_ValueError, "the tuples do not fit together");
        Py_CLEAR(result);
    } else if (result) {
        _PyBytes_Resize(&result, (Py_ssize_t)size);
    }
    PyBuffer_Release(&data);
    PyBuffer_Release(&others);
    PyBuffer_Release(&places);
    PyBuffer_Release(&kept);
    return result;
}

/* --- scan */

static PyObject *scan_bytes(PyObject *module, PyObject *arguments) {
    Py_buffer data;
    Py_ssize_t start, size;
    int delimiter, quote, final;
    Scan scan;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "y*nniip", &data, &start, &size, &delimiter, &quote, &final)) return NULL;
    if (start < 0 || start > data.len) start = data.len;
    if (size < 0 || size > data.len - start) size = data.len - start;
    Py_BEGIN_ALLOW_THREADS
    express_scan((const uint8_t *)data.buf + start, (size_t)size, (uint8_t)delimiter, (uint8_t)quote, quote >= 0, final,
                 &scan);
    Py_END_ALLOW_THREADS
    PyBuffer_Release(&data);
    return Py_BuildValue("nnnnnNN", (Py_ssize_t)scan.cut, (Py_ssize_t)scan.records, (Py_ssize_t)scan.lines,
                         (Py_ssize_t)scan.shortest, (Py_ssize_t)scan.longest, PyBool_FromLong(scan.open),
                         PyBool_FromLong(scan.regular));
}

static PyMethodDef methods[] = {
    {"compile", compile_program, METH_O, "compile(program: bytes) -> Program"},
    {"run", run_program, METH_VARARGS,
     "run(program, data, first_record, expected_size) -> (tuples, records, kept, filtered, odd, rising, first_key, last_key, years)"},
    {"text", text_program, METH_VARARGS, "text(program, data, first_record, expected_size): as run, but records of a CSV"},
    {"texts", texts_of, METH_VARARGS,
     "texts(tuples, open, records) -> ([(ends, bytes, valid)], filtered, places); open: of each field, whether it is a text"},
    {"assemble", assemble, METH_VARARGS,
     "assemble(tuples, made, places, kept) -> tuples: those that are kept, with the fields of `made` for the open ones"},
    {"scan", scan_bytes, METH_VARARGS,
     "scan(data, start, size, delimiter, quote, final) -> (cut, records, lines, shortest, longest, open, regular); quote: -1 for none"},
    {NULL, NULL, 0, NULL}};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_express", "See loader.kernel.", 0, methods,
                                        NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__express(void) {
    return PyModuleDef_Init(&definition);
}
