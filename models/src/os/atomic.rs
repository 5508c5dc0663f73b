//! Loom's atomics behind the interface of `core`'s. Those can be made in constants, loom's only while a model runs; so each
//! makes its own at its first use.

pub(crate) use loom::sync::atomic::Ordering;
use std::sync::OnceLock;

macro_rules! atomic {
    ($name:ident, $number:ty) => {
        #[derive(Debug)]
        pub(crate) struct $name {
            initial: $number,
            inner: OnceLock<loom::sync::atomic::$name>,
        }

        #[allow(dead_code, reason = "the same for all widths")]
        impl $name {
            pub(crate) const fn new(initial: $number) -> Self {
                Self { initial, inner: OnceLock::new() }
            }

            fn inner(&self) -> &loom::sync::atomic::$name {
                self.inner.get_or_init(|| loom::sync::atomic::$name::new(self.initial))
            }

            pub(crate) fn load(&self, order: Ordering) -> $number {
                self.inner().load(order)
            }

            pub(crate) fn store(&self, value: $number, order: Ordering) {
                self.inner().store(value, order);
            }

            pub(crate) fn swap(&self, value: $number, order: Ordering) -> $number {
                self.inner().swap(value, order)
            }

            pub(crate) fn compare_exchange(
                &self,
                current: $number,
                new: $number,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$number, $number> {
                self.inner().compare_exchange(current, new, success, failure)
            }
        }
    };
}

atomic!(AtomicU8, u8);
atomic!(AtomicU32, u32);
atomic!(AtomicU64, u64);
atomic!(AtomicUsize, usize);
