# Perl's own core tests, from its source package in the folder PERL_TESTS, with the installed perl and its modules.
. ./prelude.sh
cp -r "$PERL_TESTS/t" .
mkdir lib logs
for modules in /usr/share/perl/5.36 /usr/lib/*/perl/5.36 /usr/lib/*/perl-base; do
    cp -asn "$(readlink -f "$modules")/." lib/
done
cp -rn "$PERL_TESTS/lib/." lib/
# Some tests end themselves after minutes, which are not many where there is other work; with this it is ten times as long.
export PERL_VALGRIND=1
# Perl orders its hashes by chance, and a test skips itself for one order in 600 (op/hash-rt85026.t, with testudo or without).
export PERL_HASH_SEED=1
cd t
ln -s /usr/bin/perl perl
# What computes, and nothing that waits. At night everything but what measures time, and what needs files that building perl makes.
tests="base/*.t cmd/*.t comp/*.t opbasic/*.t mro/*.t op/array.t op/hash*.t op/join.t op/list.t op/pack.t op/push.t op/repeat.t op/sort.t op/splice.t
    op/split.t op/sprintf.t op/substr.t op/tr.t op/undef.t op/chop.t op/closure.t op/each.t op/grep.t
    op/lc.t op/method.t op/ord.t op/reverse.t op/sub.t op/vec.t re/regexp.t re/subst.t re/qr.t uni/lower.t"
if nightly; then
    tests="base/*.t cmd/*.t comp/*.t opbasic/*.t mro/*.t op/*.t io/*.t re/*.t uni/*.t lib/*.t run/*.t ../lib/*.t ../lib/*/*.t"
fi
for test in $tests; do
    case $test in
        re/speed*.t | op/time*.t | re/uniprops*.t | re/user_prop_race*.t | ../lib/Benchmark.t) continue ;;
    esac
    log=../logs/$(echo "$test" | tr / _).log
    status=0
    protected timeout 3000 ./perl -I../lib "$test" > "$log" 2>&1 < /dev/null || status=$?
    # Tests of what is known not to work are marked TODO.
    echo "$test: status $status, $(grep -c '^ *ok' "$log" || true) ok, $(grep '^ *not ok' "$log" | grep -vc '# TODO' || true) not ok"
done
