//! The ownership core on the fake machine. One program, so that what it is generic over is compiled once.

#[macro_use]
mod common;

mod accept;
mod audit;
mod blocks;
mod docs;
mod gib;
mod museum;
mod operations;
mod pkvm_table;
mod properties;
mod threads;
mod worlds;
