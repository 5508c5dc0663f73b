# CPython's own tests, as Debian ships them.
. ./prelude.sh
modules="test_json test_struct test_array test_gc test_ctypes"
if nightly; then
    modules="$modules test_pickle test_bytes test_memoryview test_sqlite3 test_weakref test_threading test_thread test_subprocess test_multiprocessing_fork test_concurrent_futures
        test_mmap test_fork1 test_queue test_zlib test_bz2 test_lzma test_re test_dict test_list test_set test_buffer
        test_io test_threading_local test_asyncio test_socket"
fi
# With libc's malloc for every object: otherwise Python's own allocator stands in front.
export PYTHONMALLOC=malloc
status=0
protected python3 -m test --timeout 1000 $modules > log 2>&1 || status=$?
sed -nE 's/^[0-9:]+ (load avg: [0-9.]+ )?\[ *[0-9/]+\] ([a-z_0-9]+) (passed|failed|crashed|skipped).*/\2 \3/p' log | sort
echo "status $status"
