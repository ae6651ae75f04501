/* Decimal digits and a power of ten → the nearest binary float, ties to even: the algorithm of Eisel and Lemire.

   D. Lemire, "Number parsing at a gigabyte per second", Software: Practice and Experience 51 (8), 2021, section 5, and
   N. Mushtak and D. Lemire, "Fast number parsing without fallback", 2023. `round_decimal` leaves what is not a normal
   number, and the few cases in which 128 bits of the power of five do not decide, to strtod. */
#ifndef LOADER_FLOATS_H
#define LOADER_FLOATS_H

#include "powers_of_five.h"

#include <stdint.h>

typedef struct {
    int mantissa_bits; /* stored: without the leading one */
    int bias;
    int largest;            /* of the exponents as stored: infinity's */
    int least_tie, most_tie; /* the powers of ten by which a number can be halfway between two floats */
} FloatForm;

static const FloatForm DOUBLE_FORM = {52, 1023, 2047, -4, 23}, SINGLE_FORM = {23, 127, 255, -17, 10};

static inline int leading_zeros(uint64_t word) {
#if defined(__GNUC__)
    return __builtin_clzll(word);
#else
    int count = 0;
    for (; !(word >> 63); word <<= 1) count++;
    return count;
#endif
}

typedef struct {
    uint64_t high, low;
} Product;

static inline Product product_of(uint64_t one, uint64_t other) {
#if defined(__SIZEOF_INT128__)
    const unsigned __int128 whole = (unsigned __int128)one * other;
    const Product product = {(uint64_t)(whole >> 64), (uint64_t)whole};
#else
    const uint64_t half = UINT64_C(0xFFFFFFFF);
    const uint64_t low = (one & half) * (other & half), left = (one >> 32) * (other & half);
    const uint64_t right = (one & half) * (other >> 32), middle = (low >> 32) + (left & half) + right;
    const Product product = {(one >> 32) * (other >> 32) + (left >> 32) + (middle >> 32), middle << 32 | (low & half)};
#endif
    return product;
}

/* The bits of digits · 10^exponent without its sign; 0 where it is not for this algorithm. */
static inline int round_decimal(uint64_t digits, int exponent, const FloatForm *form, uint64_t *bits) {
    if (!digits || exponent < LEAST_POWER || exponent > MOST_POWER) return 0;
    const uint64_t *power = POWERS_OF_FIVE[exponent - LEAST_POWER];
    const int shift = leading_zeros(digits);
    const int dropped = 64 - form->mantissa_bits - 3; /* bits of the product that only say how it is rounded */
    digits <<= shift;
    Product product = product_of(digits, power[0]);
    const uint64_t undecided = (UINT64_C(1) << dropped) - 1;
    if ((product.high & undecided) == undecided) { /* what is left of the power may carry into it */
        const Product rest = product_of(digits, power[1]);
        product.low += rest.high;
        if (product.low < rest.high) product.high++;
        else if (product.low == UINT64_MAX && (exponent < -27 || exponent > 55)) return 0;
    }
    const int top = (int)(product.high >> 63);
    uint64_t mantissa = product.high >> (top + dropped);
    /* 217706 / 2^16 is the binary logarithm of ten */
    int binary = (int)(((INT64_C(217706) * exponent) >> 16) + 63 + top - shift + form->bias);
    if (binary <= 0) return 0;
    if (product.low <= 1 && exponent >= form->least_tie && exponent <= form->most_tie && (mantissa & 3) == 1 &&
        mantissa << (top + dropped) == product.high)
        mantissa--; /* just between two: down to the even one */
    mantissa = (mantissa + (mantissa & 1)) >> 1;
    if (mantissa >> (form->mantissa_bits + 1)) {
        mantissa >>= 1;
        binary++;
    }
    if (binary >= form->largest) return 0;
    *bits = (mantissa & ((UINT64_C(1) << form->mantissa_bits) - 1)) | (uint64_t)binary << form->mantissa_bits;
    return 1;
}

#endif
