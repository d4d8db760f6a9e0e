//! Values without their types: generic code is compiled for each type, and again in each crate that uses it, so its large
//! parts work on these.

use std::any::Any;

/// A value of any type.
pub(crate) type Erased = Box<dyn Any + Send>;

/// Returns the value.
///
/// # Panics
/// Panics if the value is not a `T`.
pub(crate) fn typed<T: 'static>(erased: Erased) -> T {
    *erased.downcast().expect("the value has the type that was erased")
}
