/* Run by the build files at every CPU level: exits with 1 if the compiler fuses a * b + c, which rounds once instead of
 * twice, so that codecs would not write the reference's bytes. */
#include "quantreg_kernels/platform.h"

int main(void) {
    volatile float a = 1.0f + 0x1p-12f, c = -1.0f - 0x1p-11f;
    float x = a, y = c; /* x * x is 1 + 2^-11 + 2^-24, which rounds to 1 + 2^-11 */
    return x * x + y != 0;
}
