//! Which conflicts get a record: the first of its kind, then at each doubling, so that neither a retry storm nor an attacker
//! fills the journal. Budgets are a tenant's.
use hashbrown::HashMap;

/// Different conflicts that are told apart; beyond, all are forgotten and counting begins anew.
const REMEMBERED: usize = 4096;
/// Conflict records that a tenant gets before they, too, come at doublings only.
const TENANT_BUDGET: u64 = 100;

#[derive(Default)]
pub(crate) struct Conflicts {
    seen: HashMap<([u8; 16], [u8; 16]), u64>,
    tenants: HashMap<String, u64>,
}

impl Conflicts {
    /// Counts a conflict; `Some(count)`: write a record that says so many.
    pub(crate) fn count(&mut self, identity: [u8; 16], print: [u8; 16], tenant: &str) -> Option<u64> {
        if self.seen.len() >= REMEMBERED || self.tenants.len() >= REMEMBERED {
            self.seen.clear();
            self.tenants.clear();
        }
        let count = self.seen.entry((identity, print)).or_insert(0);
        *count += 1;
        let of_tenant = self.tenants.entry_ref(tenant).or_insert(0);
        *of_tenant += 1;
        let within = *of_tenant <= TENANT_BUDGET || of_tenant.is_power_of_two();
        (count.is_power_of_two() && within).then_some(*count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_conflicts_coalesce_and_a_tenant_cannot_flood() {
        let mut conflicts = Conflicts::default();
        let told: Vec<_> = (0..10).filter_map(|_| conflicts.count([1; 16], [2; 16], "t")).collect();
        assert_eq!(told, [1, 2, 4, 8]);
        let told = (0..3000u32).filter(|index| {
            let mut print = [0; 16];
            print[..4].copy_from_slice(&index.to_le_bytes());
            conflicts.count([3; 16], print, "t").is_some()
        });
        assert!(told.count() < 120);
    }
}
