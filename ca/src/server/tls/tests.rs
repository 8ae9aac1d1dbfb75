//! When the CA's own certificate is replaced.

use super::*;
use crate::testing::{HOUR, authority};

#[test]
fn the_server_certificate_is_replaced_at_half_of_its_life() {
    let start = SystemTime::now();
    let names = vec![ServerName::try_from("localhost").unwrap()];
    let mut endpoint = Endpoint::new(Arc::new(authority(start)), names, start).unwrap();
    let first = endpoint.config(start);
    assert!(Arc::ptr_eq(&first, &endpoint.config(start + 11 * HOUR)));
    let second = endpoint.config(start + 12 * HOUR);
    assert!(!Arc::ptr_eq(&first, &second));
    assert!(Arc::ptr_eq(&second, &endpoint.config(start + 23 * HOUR)));
    assert!(!Arc::ptr_eq(&second, &endpoint.config(start + 24 * HOUR)));
}

#[test]
fn a_certificate_that_cannot_be_renewed_is_kept() {
    let start = SystemTime::now();
    let authority = Arc::new(authority(start));
    let end = authority.slots().current().not_after();
    let names = vec![ServerName::try_from("localhost").unwrap()];
    let mut endpoint = Endpoint::new(authority, names, end - HOUR).unwrap();
    let first = endpoint.config(end - HOUR);
    assert!(Arc::ptr_eq(&first, &endpoint.config(end + 24 * HOUR)));
}

#[test]
fn no_session_can_be_resumed() {
    let now = SystemTime::now();
    let names = vec![ServerName::try_from("localhost").unwrap()];
    let config = Endpoint::new(Arc::new(authority(now)), names, now).unwrap().config(now);
    assert_eq!(config.send_tls13_tickets, 0);
    assert!(!config.session_storage.can_cache());
    assert_eq!(config.max_early_data_size, 0);
}
