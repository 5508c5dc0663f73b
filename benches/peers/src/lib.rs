//! Empty: this package exists to name the crates whose sources are fetched.
