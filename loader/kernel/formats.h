/* A text of a declared format → a day and a time of day: what `Format._by_reading` of loader/core/spec/datetimes.py does to all
   values at once. Each number takes all the digits it can, and names and offsets have one reading. A text that cannot be
   read so goes to another lane, where a pattern tries what else there is. */
#ifndef LOADER_FORMATS_H
#define LOADER_FORMATS_H

#include "values.h"

/* A format is pairs of bytes: the letter of a directive and 0, or 0 and a byte that stands there. */

typedef struct {
    int32_t day; /* from 0001-01-01 */
    int64_t clock, offset; /* microseconds: of the day, and of its zone east of Greenwich */
} Moment;

typedef struct {
    int year, month, day, day_of_year; /* month: from 0; day_of_year: 0 where there is none */
    int hour, minute, second, half_hour_clock; /* half_hour_clock: of %I; 0 where there is none */
    int evening;
    int64_t microsecond, offset;
} Parts;

static const char *const MONTHS[] = {"january", "february", "march", "april", "may", "june", "july", "august", "september",
                                     "october", "november", "december"};
static const char *const WEEKDAYS[] = {"monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"};
static const char *const HALVES[] = {"am", "pm"};

/* Which of `words` stands at `*at`, in any case, by its first `size` letters (0: all of them); -1 where none does. */
static inline int read_word(const uint8_t **at, const uint8_t *end, const char *const *words, int count, size_t size) {
    for (int i = 0; i < count; i++) {
        const size_t length = size ? size : strlen(words[i]);
        size_t same = 0;
        while (same < length && *at + same < end && ((*at)[same] | 0x20) == (uint8_t)words[i][same]) same++;
        if (same == length) return *at += length, i;
    }
    return -1;
}

/* A number of `fewest` to `most` digits, as many as there are; -1 where there are too few. */
static inline int read_number(const uint8_t **at, const uint8_t *end, int fewest, int most) {
    const uint8_t *begin = *at;
    int number = 0;
    while (*at < end && *at - begin < most && digit_of(**at) <= 9) number = number * 10 + digit_of(*(*at)++);
    return *at - begin < fewest ? -1 : number;
}

/* %z: +HH, +HHMM, +HH:MM or Z. */
static inline int read_zone(const uint8_t **at, const uint8_t *end, int64_t *offset) {
    *offset = 0;
    if (*at < end && **at == 'Z') return ++*at, 1;
    if (end - *at < 3 || (**at != '+' && **at != '-')) return 0;
    const int west = **at == '-', hour = two_digits(*at + 1);
    if (hour < 0 || hour > 23) return 0;
    *at += 3;
    const uint8_t *minutes = *at + (*at < end && **at == ':');
    int minute = end - minutes >= 2 ? two_digits(minutes) : -1;
    if (minute >= 0 && minute <= 59) *at = minutes + 2;
    else minute = 0;
    *offset = (hour * 60 + minute) * INT64_C(60000000);
    if (west) *offset = -*offset;
    return 1;
}

/* 0 where the text does not go on with what the directive stands for. */
static inline int read_directive(uint8_t directive, const uint8_t **at, const uint8_t *end, Parts *parts) {
    switch (directive) {
    case 'Y': return (parts->year = read_number(at, end, 4, 4)) >= 1;
    case 'y':
        parts->year = read_number(at, end, 2, 2);
        if (parts->year < 0) return 0;
        parts->year += parts->year < 69 ? 2000 : 1900;
        return 1;
    case 'm': return (parts->month = read_number(at, end, 1, 2) - 1) >= 0 && parts->month <= 11;
    case 'b': return (parts->month = read_word(at, end, MONTHS, 12, 3)) >= 0;
    case 'B': return (parts->month = read_word(at, end, MONTHS, 12, 0)) >= 0;
    case 'd': return (parts->day = read_number(at, end, 1, 2)) >= 1;
    case 'j': return (parts->day_of_year = read_number(at, end, 1, 3)) >= 1;
    case 'a': return read_word(at, end, WEEKDAYS, 7, 3) >= 0;
    case 'A': return read_word(at, end, WEEKDAYS, 7, 0) >= 0;
    case 'H': return (parts->hour = read_number(at, end, 1, 2)) >= 0 && parts->hour <= 23;
    case 'I': return (parts->half_hour_clock = read_number(at, end, 1, 2)) >= 1 && parts->half_hour_clock <= 12;
    case 'p': return (parts->evening = read_word(at, end, HALVES, 2, 0)) >= 0;
    case 'M': return (parts->minute = read_number(at, end, 1, 2)) >= 0 && parts->minute <= 59;
    case 'S': return (parts->second = read_number(at, end, 1, 2)) >= 0 && parts->second <= 59;
    case 'f': {
        const uint8_t *begin = *at;
        const int number = read_number(at, end, 1, 6);
        if (number < 0) return 0;
        parts->microsecond = number * (int64_t)POWERS[6 - (*at - begin)];
        return 1;
    }
    case 'z': return read_zone(at, end, &parts->offset);
    default: return 0;
    }
}

/* Days from 0001-01-01; -1 where there is no such day. */
static inline int32_t day_of(const Parts *parts) {
    static const int before[13] = {0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334, 365};
    const int year = parts->year, past = year - 1;
    const int leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    const int32_t start = 365 * past + past / 4 - past / 100 + past / 400;
    if (parts->day_of_year) return parts->day_of_year <= 365 + leap ? start + parts->day_of_year - 1 : -1;
    const int month = parts->month, days = before[month + 1] - before[month] + (leap && month == 1);
    return parts->day <= days ? start + before[month] + (leap && month > 1) + parts->day - 1 : -1;
}

enum { ISO_DAY = 10 }; /* bytes of the format %Y-%m-%d, which most begin with */

static inline int read_formatted(const Text *format, const uint8_t *text, size_t size, Moment *moment) {
    const uint8_t *at = text, *const end = text + size;
    Parts parts = {1970, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0};
    uint32_t i = 0;
    int32_t day = -1;
    int year;
    if (format->size >= ISO_DAY && size >= 10 && !memcmp(format->text, "Y\0\0-m\0\0-d\0", ISO_DAY) && (day = read_day(text, &year)) >= 0)
        i = ISO_DAY, at += 10;
    for (; i < format->size; i += 2) {
        const uint8_t directive = format->text[i];
        if (directive) {
            if (!read_directive(directive, &at, end, &parts)) return 0;
        } else if (at == end || *at++ != format->text[i + 1]) {
            return 0;
        }
    }
    if (at != end || (moment->day = day >= 0 ? day : day_of(&parts)) < 0) return 0;
    const int hour = parts.half_hour_clock ? parts.half_hour_clock % 12 + 12 * parts.evening : parts.hour;
    moment->clock = ((hour * 60 + parts.minute) * 60 + parts.second) * INT64_C(1000000) + parts.microsecond;
    moment->offset = parts.offset;
    return 1;
}

static inline int is_format(const Text *format) {
    if (format->size % 2) return 0;
    for (uint32_t i = 0; i < format->size; i += 2)
        if (format->text[i] && !memchr("YymbBdjaAHIpMSfz", format->text[i], 16)) return 0;
    return 1;
}

#endif
