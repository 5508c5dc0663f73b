//! What testudo does with wrong options, scarce resources and a world that does not cooperate: one
//! clear line, or NULL and `ENOMEM`; never a hang, never less protection in silence.

#[path = "support/control_group.rs"]
#[allow(dead_code, reason = "each test binary uses its part of it")]
mod control_group;
#[path = "support/real.rs"]
#[allow(dead_code, reason = "each test binary uses its part of it")]
mod real;
mod support;

#[path = "real/limits.rs"]
mod limits;
#[path = "real/options.rs"]
mod options;
#[path = "real/reporting.rs"]
mod reporting;
#[path = "real/run_command.rs"]
mod run_command;
#[path = "real/sandbox.rs"]
mod sandbox;
