/* Where records end, for the splitter: the rules of loader/records/block.py (`layout`, `irregular_quotes`) by masks. */
#include "express.h"

static void end_records(const uint8_t *data, size_t base, uint64_t all_ends, uint64_t record_ends, size_t size, int final,
                        size_t *lines, Scan *scan) {
    while (all_ends) {
        const int bit = first_bit(all_ends);
        size_t end = base + (size_t)bit + 1;
        all_ends &= all_ends - 1;
        if (data[end - 1] == '\r') {
            if (end == size && !final) continue; /* may be half of a CRLF */
            if (end < size && data[end] == '\n') continue; /* the LF ends it */
        }
        ++*lines;
        if (!(record_ends >> bit & 1)) continue;
        if (end - scan->cut < scan->shortest) scan->shortest = end - scan->cut;
        if (*lines - scan->lines > scan->longest) scan->longest = *lines - scan->lines;
        scan->cut = end;
        scan->records++;
        scan->lines = *lines;
    }
}

/* Finds the records that end in `data`. `final`: nothing follows, so what is left is a record as well. */
void express_scan(const uint8_t *data, size_t size, uint8_t delimiter, uint8_t quote, int has_quote, int final, Scan *scan) {
    const Scan nothing = {0, 0, 0, size, 0, 0, 1};
    size_t lines = 0;
    Before before = RECORD_START;
    uint8_t last[64];
    *scan = nothing;
    for (size_t base = 0; base < size; base += 64) {
        uint64_t within;
        const uint8_t *word = word_at(data, size, base, last, &within);
        const Masks masks = masks_of(word, delimiter, quote);
        const uint64_t ends = (masks.lf | masks.cr) & within;
        const uint64_t quote_bits = has_quote ? masks.quote & within : 0;
        const Quotes quotes = quotes_of_word(quote_bits, (masks.delimiter & within) | ends, within, &before);
        if (quotes.irregular) scan->regular = 0;
        if (ends) end_records(data, base, ends, ends & ~quotes.quoted, size, final, &lines, scan);
    }
    scan->open = before.inside != 0;
    if (final && !scan->open && scan->cut < size) {
        if (lines - scan->lines + 1 > scan->longest) scan->longest = lines - scan->lines + 1;
        scan->records++;
        scan->cut = size;
        scan->lines = lines;
    }
}
