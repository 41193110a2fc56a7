//! Postern on the fake machine: a world to test it in, and what the fuzz targets share with the tests.
//!
//! A [`World`] is booted as a real machine is and then called as a host calls it; a [`Guest`] is a VM in it whose vCPUs
//! do what the test says. [`World::check`] is the whole audit and more; every test ends with it, most go through it often.

pub mod calls_md;
pub mod fuzz;
mod guest;
mod noise;
pub mod td;
mod world;

pub use guest::Guest;
pub use noise::Noise;
pub use world::{NOT_RAM, RAM, World};
