/* The kernel's doubles and floats against strtod and strtof, bit for bit: tests/fuzz_floats ROUNDS [SEED].

   Texts of any digits and exponents, of floats that were written shortest or in 17 digits, and of numbers half between two
   floats or beside them. Built with: gcc -O2 tests/fuzz_floats.c -o fuzz_floats */
#if !defined(_GNU_SOURCE)
#define _GNU_SOURCE
#endif
#include "../loader/kernel/values.h"

#include <stdio.h>

static uint64_t state;

static uint64_t roll(void) {
    state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    const uint64_t mixed = (state ^ state >> 29) * UINT64_C(0xBF58476D1CE4E5B9);
    return mixed ^ mixed >> 32;
}

static size_t digits_of(char *text) {
    const size_t most = 1 + roll() % 22;
    size_t size = 0;
    if (roll() % 3 == 0) text[size++] = '-';
    const size_t point = roll() % (most + 1);
    for (size_t i = 0; i < most; i++) {
        if (i == point) text[size++] = '.';
        text[size++] = (char)('0' + (roll() % 8 ? roll() % 10 : roll() % 2 * 9));
    }
    if (roll() % 2) return size + (size_t)sprintf(text + size, "e%d", (int)(roll() % 700) - 350);
    if (roll() % 2) return size + (size_t)sprintf(text + size, "E%+d", (int)(roll() % 50) - 25);
    return size;
}

/* A text of the round: of a double, of a float, of whole numbers half between two, or of any digits. */
static size_t text_of(char *text) {
    const uint64_t bits = roll();
    double number;
    float single;
    switch (roll() % 6) {
    case 0:
        memcpy(&number, &bits, 8);
        return (size_t)sprintf(text, "%.*g", 15 + (int)(roll() % 5), number);
    case 1:
        memcpy(&single, &bits, 4);
        return (size_t)sprintf(text, "%.*g", 6 + (int)(roll() % 5), (double)single);
    case 2:
        number = (double)(int64_t)bits / 4294967296.0 / (double)(1 + roll() % 1000000);
        return (size_t)sprintf(text, "%.*g", 14 + (int)(roll() % 5), number);
    case 3: { /* the bit behind a mantissa's last one is set, or nearly */
        const int kept = roll() % 2 ? 53 : 24, more = 1 + (int)(roll() % (uint64_t)(63 - kept));
        const uint64_t mantissa = roll() >> (64 - kept) | (uint64_t)1 << (kept - 1);
        const uint64_t whole = (mantissa << more | (uint64_t)1 << (more - 1)) + roll() % 3 - 1;
        const int size = sprintf(text, "%llu", (unsigned long long)whole);
        return (size_t)size + (roll() % 4 ? 0 : (size_t)sprintf(text + size, "e%d", (int)(roll() % 60) - 30));
    }
    case 4: { /* the same with a fraction: odd / 2^n */
        const int down = 1 + (int)(roll() % 17);
        const uint64_t whole = roll() >> (roll() % 40 + 11);
        const int size = sprintf(text, "%.*f", down, (double)(whole | 1) / (double)(1 << down));
        return (size_t)size;
    }
    default:
        return digits_of(text);
    }
}

static int differs(const char *text, size_t size, uint64_t *sure) {
    double number, wanted = strtod(text, NULL);
    float single, wanted_single = strtof(text, NULL);
    static Locale locale;
    if (!locale) locale = c_locale();
    if (read_double((const uint8_t *)text, size, 0, locale, &number)) {
        ++*sure;
        if (memcmp(&number, &wanted, 8)) return printf("%.*s: %a and not %a\n", (int)size, text, number, wanted), 1;
    }
    if (read_single((const uint8_t *)text, size, 0, locale, &single)) {
        ++*sure;
        if (memcmp(&single, &wanted_single, 4))
            return printf("%.*s: %a and not %a (single)\n", (int)size, text, (double)single, (double)wanted_single), 1;
    }
    return 0;
}

int main(int count, char **arguments) {
    const long rounds = count > 1 ? atol(arguments[1]) : 1000000;
    uint64_t sure = 0;
    state = count > 2 ? (uint64_t)atoll(arguments[2]) : 1;
    for (long round = 0; round < rounds; round++) {
        char text[64];
        const size_t size = text_of(text);
        text[size] = 0;
        if (differs(text, size, &sure)) return 1;
    }
    printf("%ld texts, %llu numbers, none different\n", rounds, (unsigned long long)sure);
    return 0;
}
