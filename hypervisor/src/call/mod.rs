//! Calls, one file for each.
//!
//! Every one has the same paragraphs: decode the arguments, check all that can be checked, and only then change
//! something. What can fail in the middle is the ownership core's business, which either refuses or commits.

pub mod guest;
pub mod host;
pub mod pkvm;
pub mod realm;
pub mod tdx;
