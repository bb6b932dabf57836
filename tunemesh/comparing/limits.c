/* What one core can do: multiply-adds in registers, and traffic with memory. */

#if defined(__AVX512F__)
#define WIDTH 64
#elif defined(__AVX__)
#define WIDTH 32
#else
#define WIDTH 16
#endif

typedef float vec __attribute__((vector_size(WIDTH)));

/* As many chains as hide the latency of two units, and still fit 16 registers with the two operands. */
#define CHAINS 12

/* Runs `count` rounds; returns the floating-point operations that these were. */
double multiply_add(long count, float a, float b, float *sink)
{
    vec sum[CHAINS], x = a - (vec){}, y = b - (vec){};
    for (int i = 0; i < CHAINS; ++i)
        sum[i] = x + (float)i;
    for (long n = 0; n < count; ++n)
#pragma GCC unroll 12
        for (int i = 0; i < CHAINS; ++i)
            sum[i] = sum[i] * x + y;
    for (int i = 1; i < CHAINS; ++i)
        sum[0] += sum[i];
    *sink = sum[0][0];
    return 2.0 * CHAINS * (WIDTH / 4) * count;
}

/* The triad of the STREAM benchmark: two arrays are read, one is written. */
void triad(long count, float *a, const float *b, const float *c, float scale)
{
    for (long i = 0; i < count; ++i)
        a[i] = b[i] + scale * c[i];
}

/* One array is read, one is written. */
void copy(long count, float *a, const float *b)
{
    for (long i = 0; i < count; ++i)
        a[i] = b[i];
}
