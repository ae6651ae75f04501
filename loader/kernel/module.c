/* The express lane as a Python module: compile(program) and run(program, data, ...). See loader/kernel/__init__.py.

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
} Compiled;

static void discard(Compiled *compiled) {
    if (!compiled) return;
#if defined(_WIN32)
    if (compiled->program.locale) _free_locale(compiled->program.locale);
#else
    if (compiled->program.locale) freelocale(compiled->program.locale);
#endif
    free(compiled->source);
    free(compiled->texts);
    free(compiled->columns);
    free(compiled->unused);
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
        keys += (column->flags & KEY) != 0;
        program->fixed += size_at_most(column);
        if (column->field >= 0) {
            const uint32_t times = compiled->unused[column->field] += is_as_long_as_text(column) ? 1 : 0;
            if (times > program->repeated) program->repeated = times;
        }
    }
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

static int allocate_scratch(const Program *program, Run *run) {
    run->ends = malloc((program->fields + 1) * sizeof(size_t));
    run->first_key = calloc(3 * (size_t)program->key_count + 1, sizeof(int64_t));
    run->last_key = run->first_key ? run->first_key + program->key_count : NULL;
    run->key = run->first_key ? run->last_key + program->key_count : NULL;
    return run->ends && run->first_key;
}

/* Fills `*made`, a bytes object, growing it as needed. */
static int fill(const Program *program, const Py_buffer *data, int64_t first_record, Run *run, PyObject **made) {
    for (;;) {
        Outcome outcome;
        run->out = (uint8_t *)PyBytes_AsString(*made);
        run->room = (size_t)PyBytes_Size(*made);
        Py_BEGIN_ALLOW_THREADS
        outcome = express_run(program, data->buf, (size_t)data->len, first_record, run);
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
    return Py_BuildValue("OLLy#Ny#y#", made, (long long)run->record, (long long)run->kept, (const char *)run->odd,
                         (Py_ssize_t)(run->odd_count * sizeof(Odd)), PyBool_FromLong(run->rising), first, keys, last, keys);
}

static PyObject *run_program(PyObject *module, PyObject *arguments) {
    PyObject *capsule, *made, *result = NULL;
    Py_buffer data;
    long long first_record;
    Py_ssize_t expected;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "Oy*Ln", &capsule, &data, &first_record, &expected)) return NULL;
    const Compiled *compiled = PyCapsule_GetPointer(capsule, NAME);
    Run run = {0};
    run.rising = 1;
    made = compiled ? PyBytes_FromStringAndSize(NULL, expected < ROOM_MORE ? ROOM_MORE : expected) : NULL;
    if (made && !allocate_scratch(&compiled->program, &run)) {
        PyErr_NoMemory();
    } else if (made && fill(&compiled->program, &data, first_record, &run, &made) == 0) {
        result = result_of(&compiled->program, &run, made);
    }
    Py_XDECREF(made);
    free(run.ends);
    free(run.first_key);
    free(run.odd);
    PyBuffer_Release(&data);
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
    return Py_BuildValue("nnnnNN", (Py_ssize_t)scan.cut, (Py_ssize_t)scan.records, (Py_ssize_t)scan.lines,
                         (Py_ssize_t)scan.shortest, PyBool_FromLong(scan.open), PyBool_FromLong(scan.regular));
}

static PyMethodDef methods[] = {
    {"compile", compile_program, METH_O, "compile(program: bytes) -> Program"},
    {"run", run_program, METH_VARARGS,
     "run(program, data, first_record, expected_size) -> (tuples, records, kept, odd, rising, first_key, last_key)"},
    {"scan", scan_bytes, METH_VARARGS,
     "scan(data, start, size, delimiter, quote, final) -> (cut, records, lines, shortest, open, regular); quote: -1 for none"},
    {NULL, NULL, 0, NULL}};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_express", "See loader.kernel.", 0, methods,
                                        NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__express(void) {
    return PyModuleDef_Init(&definition);
}
