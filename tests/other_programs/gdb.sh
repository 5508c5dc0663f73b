# gdb under the library, and gdb of a program that has it; the report must reach whoever debugs.
. ./prelude.sh
cat > program.c <<'END'
#include <stdio.h>
#include <stdlib.h>
static int depth(int n) { char *chunk = malloc((size_t)n + 1); int sum = n ? depth(n - 1) + 1 : 0; free(chunk); return sum; }
int main(void) { printf("depth %d\n", depth(100)); return 0; }
END
gcc -g -O0 program.c -o program
protected gdb -nx -batch -ex 'break depth if n == 3' -ex run -ex 'print n' -ex 'backtrace 3' -ex continue ./program > gdb.log 2> gdb-errors.log
grep -E '^\$1 = |^depth ' gdb.log
grep -c 'depth (n=' gdb.log
