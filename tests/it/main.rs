//! black box tests
fn main(){}
