//! The chained CNI plugin: it lets a pod start only when its policy is in force (DESIGN section 4).

pub mod protocol;
