//! Connections to the server: made when they are needed, made again when they
//! broke, and never shared by what could hold each other up.

mod line;
mod pool;
mod tls;

pub(crate) use self::pool::{Lease, Pool};
