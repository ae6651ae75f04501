/* Tuples of binary COPY of which some fields are still texts, for another lane to make: taken out of them, and put back.

   Whatever the bytes are, nothing is read outside of them. */
#ifndef LOADER_TUPLES_H
#define LOADER_TUPLES_H

#include "values.h"
#include "filter.h"

enum { MARKED = 0x8000 }; /* of a tuple's number of fields: the filter leaves the record out */

typedef struct {
    const uint8_t *at, *end;
} Tuples;

/* The number of fields of the next tuple, with its mark; -1 where there is none. */
static inline int32_t next_tuple(Tuples *tuples) {
    if (tuples->end - tuples->at < 2) return -1;
    tuples->at += 2;
    return (int32_t)get16(tuples->at - 2);
}

/* The next field with its length before it, as `bytes` and `size`; 0 where there is none. */
static inline int next_field(Tuples *tuples, const uint8_t **bytes, size_t *size) {
    if (tuples->end - tuples->at < 4) return 0;
    const uint32_t length = get32(tuples->at);
    *bytes = tuples->at;
    *size = length == UINT32_MAX ? 4 : 4 + (size_t)length;
    if ((size_t)(tuples->end - tuples->at) < *size) return 0;
    tuples->at += *size;
    return 1;
}

/* One open column as Arrow has texts: where each ends, its bytes, and a bit for each that is not NULL. */
typedef struct {
    int32_t *ends;
    uint8_t *bytes, *valid;
} Texts;

/* Where each of `records` tuples begins and where its open fields do, and at last where the tuples end: shape
   (records, 1 + opened) + 1. `open` says of each of a tuple's `fields` whether it is one of those. Adds up the texts' bytes in
   `sizes`. Returns 0 where the tuples make no sense. */
static inline int find_places(Tuples tuples, const uint8_t *open, uint32_t fields, size_t records, uint64_t *places,
                              size_t *sizes) {
    const uint8_t *const begin = tuples.at;
    for (size_t record = 0; record < records; record++) {
        *places++ = (uint64_t)(tuples.at - begin);
        const int32_t count = next_tuple(&tuples);
        if (count < 0 || ((uint32_t)count & ~(uint32_t)MARKED) != fields) return 0;
        size_t *size_of = sizes;
        for (uint32_t i = 0; i < fields; i++) {
            const uint8_t *bytes;
            size_t size;
            if (!next_field(&tuples, &bytes, &size)) return 0;
            if (!open[i]) continue;
            *places++ = (uint64_t)(bytes - begin);
            *size_of++ += size - 4;
        }
    }
    *places = (uint64_t)(tuples.at - begin);
    return tuples.at == tuples.end;
}

/* The texts of open column `place`, given where they are by `find_places`. */
static inline void take_texts(const uint8_t *tuples, const uint64_t *places, uint32_t opened, uint32_t place, size_t records,
                              Texts texts) {
    int32_t end = 0;
    *texts.ends++ = 0;
    for (size_t record = 0; record < records; record++) {
        const uint8_t *field = tuples + places[record * (1 + opened) + 1 + place];
        const uint32_t size = get32(field);
        if (size != UINT32_MAX) {
            memcpy(texts.bytes + end, field + 4, size);
            end += (int32_t)size;
            texts.valid[record / 8] |= (uint8_t)(1 << record % 8);
        }
        *texts.ends++ = end;
    }
}

static inline int copy_bytes(const uint8_t *from, uint64_t begin, uint64_t end, uint64_t size, uint8_t **out) {
    if (begin > end || end > size) return 0;
    memcpy(*out, from + begin, (size_t)(end - begin));
    *out += end - begin;
    return 1;
}

/* The tuples whose `kept` is 1, with the fields of `made` in the places of those that are open. `out` has room for all of
   both. Returns its size, or -1 where they do not fit together. */
static inline int64_t put_together(Tuples tuples, Tuples made, const uint64_t *places, uint32_t opened, const uint8_t *kept,
                                   size_t records, uint8_t *out) {
    uint8_t *const begin = out;
    const uint8_t *const data = tuples.at;
    const uint64_t size = (uint64_t)(tuples.end - tuples.at);
    uint64_t end = 0; /* of the tuples that were looked at */
    for (size_t record = 0; record < records; record++, places += 1 + opened) {
        if (!kept[record]) continue;
        uint64_t at = places[0];
        if (at < end || next_tuple(&made) != (int32_t)opened) return -1;
        end = places[1 + opened]; /* where the next one begins */
        if (end > size) return -1;
        for (uint32_t i = 0; i < opened; i++) {
            const uint8_t *bytes;
            size_t made_size, text_size;
            const uint64_t place = places[1 + i];
            if (!copy_bytes(data, at, place, end, &out)) return -1;
            Tuples text = {data + place, data + end};
            if (!next_field(&text, &bytes, &text_size) || !next_field(&made, &bytes, &made_size)) return -1;
            memcpy(out, bytes, made_size);
            out += made_size;
            at = place + text_size;
        }
        if (!copy_bytes(data, at, end, size, &out)) return -1;
    }
    return made.at == made.end ? (int64_t)(out - begin) : -1;
}

#endif
