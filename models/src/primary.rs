//! The region, as it is.

#[allow(dead_code, reason = "the models use a part of it")]
#[path = "../../src/primary/region.rs"]
pub(crate) mod region;
