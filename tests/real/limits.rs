//! Address space, data and mappings that run out.

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::control_group::ControlGroup;
use crate::real;

const LIMITS_MB: [u64; 5] = [256, 300, 512, 1024, 4096];
/// A program of some ten megabytes has little more than that to itself.
const LEAST_MB: [u64; 2] = [100, 200];
const PROFILES: [&str; 3] = ["profile=default", "profile=strict", "profile=fast"];

#[derive(Clone, Copy)]
enum Resource {
    AddressSpace,
    Data,
}

/// Has `command` start with at most `megabytes` of a resource.
fn limit(command: &mut Command, resource: Resource, megabytes: u64) -> &mut Command {
    let bound = libc::rlimit { rlim_cur: megabytes << 20, rlim_max: megabytes << 20 };
    let resource = match resource {
        Resource::AddressSpace => libc::RLIMIT_AS,
        Resource::Data => libc::RLIMIT_DATA,
    };
    // SAFETY: between fork and exec only `setrlimit` is called, which is async-signal-safe; `bound`
    // is moved into the closure.
    unsafe {
        command.pre_exec(move || match libc::setrlimit(resource, &bound) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        })
    }
}

fn python_works_within(megabytes: u64) {
    if !real::installed(&["python3"]) {
        return;
    }
    let folder = real::folder();
    let python = real::find("python3").expect("just found");
    for profile in PROFILES {
        let mut command = real::command(&python, folder.path(), Some(profile));
        command.env("PYTHONMALLOC", "malloc").args([
            "-c",
            "import json, threading
work = lambda: json.loads(json.dumps([str(number) for number in range(30000)]))
thread = threading.Thread(target=work)
thread.start()
thread.join()
print(sum(map(len, work())))",
        ]);
        let ended = real::to_the_end(limit(&mut command, Resource::AddressSpace, megabytes));
        assert!(ended.status.success(), "{megabytes} MB, {profile}: {ended:?}");
        assert_eq!(ended.out(), "138890\n", "{megabytes} MB, {profile}");
    }
}

fn sqlite_works_within(megabytes: u64) {
    if !real::installed(&["sqlite3"]) {
        return;
    }
    let folder = real::folder();
    let sqlite = real::find("sqlite3").expect("just found");
    for profile in PROFILES {
        let mut command = real::command(&sqlite, folder.path(), Some(profile));
        command.args([
            ":memory:",
            "CREATE TABLE t (a INTEGER, b TEXT);
             WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 50000)
             INSERT INTO t SELECT i, printf('%x', i * 7919) FROM n;
             CREATE INDEX x ON t (b);
             SELECT count(*), max(b), sum(length(b)) FROM t;",
        ]);
        let ended = real::to_the_end(limit(&mut command, Resource::AddressSpace, megabytes));
        assert!(ended.status.success(), "{megabytes} MB, {profile}: {ended:?}");
        assert_eq!(ended.out(), "50000|fffec07|363845\n", "{megabytes} MB, {profile}");
    }
}

/// What to hand to `limit_memory`: at least a quarter of the limit can be had, and not more than it.
fn bounds(megabytes: u64, size: usize) -> [String; 3] {
    [size.to_string(), (megabytes / 4).to_string(), megabytes.to_string()]
}

fn malloc_refuses_at(resource: Resource, megabytes: u64, size: usize) {
    for profile in PROFILES {
        real::keeps_the_limit("c/limit_memory.c", &bounds(megabytes, size), profile, |command| {
            limit(command, resource, megabytes)
        });
    }
}

#[test]
fn python_works_in_little_address_space() {
    for megabytes in LEAST_MB.into_iter().chain(LIMITS_MB) {
        python_works_within(megabytes);
    }
}

#[test]
fn sqlite_works_in_little_address_space() {
    for megabytes in LEAST_MB.into_iter().chain(LIMITS_MB) {
        sqlite_works_within(megabytes);
    }
}

/// It asks for chunks of nearly every size.
#[test]
fn a_compiler_works_in_little_address_space() {
    if !real::installed(&["gcc"]) {
        return;
    }
    let gcc = real::find("gcc").expect("just found");
    for megabytes in LEAST_MB {
        for profile in PROFILES {
            let folder = real::folder();
            let source = folder.path().join("hello.c");
            fs::write(&source, "#include <stdio.h>\nint main(void) { return puts(\"hello\") < 0; }\n").expect("a file");
            let mut command = real::command(&gcc, folder.path(), Some(profile));
            command.args(["-O1", "-c", "hello.c", "-o", "hello.o"]);
            let ended = real::to_the_end(limit(&mut command, Resource::AddressSpace, megabytes));
            assert!(ended.status.success(), "{megabytes} MB, {profile}: {ended:?}");
            assert!(folder.path().join("hello.o").exists());
        }
    }
}

/// Of every size there is one, though each size class has a region of its own.
#[test]
fn chunks_of_all_sizes_can_be_had_in_little_address_space() {
    for megabytes in [64, 100, 200, 256] {
        for profile in PROFILES {
            real::keeps_the_limit("c/limit_sizes.c", &[], profile, |command| {
                limit(command, Resource::AddressSpace, megabytes)
            });
        }
    }
}

#[test]
fn small_chunks_end_with_enomem_where_address_space_ends() {
    for megabytes in [256, 512] {
        malloc_refuses_at(Resource::AddressSpace, megabytes, 64);
        malloc_refuses_at(Resource::AddressSpace, megabytes, 5000);
    }
}

#[test]
fn large_chunks_end_with_enomem_where_address_space_ends() {
    for megabytes in LIMITS_MB {
        malloc_refuses_at(Resource::AddressSpace, megabytes, 1 << 20);
    }
}

/// What was freed is inaccessible for a while, but only the addresses of the chunks themselves are held for that.
#[test]
fn address_space_that_a_freed_chunk_had_around_it_can_be_had_again() {
    for profile in PROFILES {
        real::keeps_the_limit("c/limit_held.c", &[], profile, |command| limit(command, Resource::AddressSpace, 4096));
    }
}

#[test]
fn hundreds_of_thousands_of_chunks_of_no_bytes_can_be_live_in_little_address_space() {
    for profile in PROFILES {
        for (megabytes, count) in [(4096, 400_000), (512, 200_000)] {
            real::keeps_the_limit("c/limit_zero_sized.c", &[count.to_string()], profile, |command| {
                limit(command, Resource::AddressSpace, megabytes)
            });
        }
    }
}

#[test]
fn small_chunks_end_with_enomem_where_data_ends() {
    malloc_refuses_at(Resource::Data, 256, 64);
    malloc_refuses_at(Resource::Data, 256, 5000);
}

#[test]
fn large_chunks_end_with_enomem_where_data_ends() {
    malloc_refuses_at(Resource::Data, 256, 1 << 20);
    malloc_refuses_at(Resource::Data, 1024, 1 << 20);
}

#[test]
fn large_chunks_end_with_enomem_where_mappings_end() {
    let limit = fs::read_to_string("/proc/sys/vm/max_map_count").expect("the limit");
    if limit.trim().parse::<u64>().expect("a number") > 4 << 20 {
        return real::say_skipped("so many mappings are allowed that to use them up would take a machine's memory");
    }
    for profile in PROFILES {
        real::keeps_the_limit("c/limit_mappings.c", &[], profile, |command| command);
    }
}

#[test]
fn the_heap_ends_with_enomem_at_heap_limit_mb() {
    for profile in PROFILES {
        for size in [64, 5000, 1 << 20] {
            let options = format!("{profile}:heap_limit_mb=100");
            real::keeps_the_limit("c/limit_memory.c", &bounds(100, size), &options, |command| command);
        }
    }
}

#[test]
fn one_request_ends_with_enomem_at_max_alloc_mb() {
    for profile in PROFILES {
        let options = format!("{profile}:max_alloc_mb=10");
        real::keeps_the_limit("c/limit_one.c", &["10".to_owned()], &options, |command| command);
    }
}

/// What is reserved counts, and it is more than any limit: large chunks need new mappings, small ones do not.
#[test]
fn where_a_running_program_lowers_its_address_space_small_chunks_go_on_and_large_ones_end_with_enomem() {
    for profile in PROFILES {
        real::keeps_the_limit("c/limit_lowered.c", &["4096".to_owned()], profile, |command| command);
    }
}

/// Mappings of freed large chunks are kept for speed; small chunks need the memory more.
#[test]
fn what_large_chunks_had_small_ones_can_have() {
    for profile in PROFILES {
        let options = format!("{profile}:heap_limit_mb=40");
        real::keeps_the_limit("c/limit_mixed.c", &["26".to_owned()], &options, |command| command);
    }
}

#[test]
fn heap_limit_mb_comes_before_a_control_groups_limit() {
    let Some(group) = ControlGroup::with_memory(100) else {
        return real::say_skipped("no control group can be made");
    };
    for profile in PROFILES {
        for size in [64, 5000, 1 << 20] {
            let options = format!("{profile}:heap_limit_mb=60");
            real::keeps_the_limit("c/limit_memory.c", &bounds(60, size), &options, |command| group.enclose(command));
        }
    }
}
