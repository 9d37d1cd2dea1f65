//! The caskad command.
fn main() {}
