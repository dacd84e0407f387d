//! The rules, each as a function from what there is to what is wrong with it.

pub mod answers;
pub mod graph;
pub mod promises;
pub mod shape;
pub mod words;
