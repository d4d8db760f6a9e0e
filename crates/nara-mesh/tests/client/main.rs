//! The client against peers made by hand: mostly over a network in memory and with paused time, so that
//! seconds cost nothing and nothing depends on the speed of the machine.

mod calls;
mod deadlines;
mod events;
mod routing;
mod support;
mod verification;
