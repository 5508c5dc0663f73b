# CPython's own tests, as Debian ships them.
. ./prelude.sh
modules="test_json test_struct test_array test_gc test_ctypes"
if nightly; then
    modules="$modules test_pickle test_bytes test_memoryview test_weakref test_threading test_thread test_subprocess test_multiprocessing_fork test_concurrent_futures
        test_mmap test_fork1 test_queue test_zlib test_bz2 test_lzma test_re test_dict test_list test_set test_buffer
        test_io test_threading_local test_asyncio test_socket"
fi
# Debian ships no test_sqlite3. Sockets of virtual machines wait for ever where the host does not answer.
# With libc's malloc for every object: otherwise Python's own allocator stands in front.
export PYTHONMALLOC=malloc
# The order of sets and hashes, and what tests draw, are chance otherwise.
export PYTHONHASHSEED=1
for module in $modules; do
    log=$module.log
    status=0
    protected python3 -m test --verbose --randseed 1 --timeout 3000 --ignore "*VSOCK*" "$module" > "$log" 2>&1 || status=$?
    # How many tests ran, how many of them were skipped or failed, and which failed.
    echo "$module: status $status," $(sed -nE 's/^(Ran [0-9]+ tests?) in .*/\1/p; s/^((OK|FAILED)( \(.*\))?)$/\1/p' "$log")
    grep -E '^(FAIL|ERROR): ' "$log" | sort || true
done
