//! the sealflow binary
fn main(){}
