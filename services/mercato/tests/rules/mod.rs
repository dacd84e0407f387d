//! The rules, each as a function from what there is to what is wrong with it.

pub mod graph;
pub mod shape;
pub mod words;
