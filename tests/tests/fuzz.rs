//! Every fuzz target, with fixed seeds. `POSTERN_FUZZ_CASES` asks for more cases than the usual few.

use tests::{Noise, fuzz};

fn cases() -> u64 {
    std::env::var("POSTERN_FUZZ_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(2)
}

macro_rules! targets {
    ($($name:ident)*) => {
        $(#[test] fn $name() {
            for case in 0..cases() {
                fuzz::run(stringify!($name), &mut Noise::seed(case * 1000 + stringify!($name).len() as u64), 60);
            }
        })*

        #[test]
        fn every_target_is_run_here_and_by_the_fuzzer() {
            let mut here = [$(stringify!($name)),*];
            let mut all: Vec<String> = fuzz::targets().map(str::to_lowercase).collect();
            here.sort_unstable();
            all.sort_unstable();
            assert_eq!(here[..], all[..]);
            let manifest = include_str!("../fuzz/Cargo.toml");
            for name in all {
                assert!(manifest.contains(&format!("name = \"{name}\"")), "{name} is not in tests/fuzz/Cargo.toml");
            }
        }
    };
}

#[test]
fn a_fuzzers_bytes_are_used_until_they_run_out() {
    for length in [0, 1, 7, 100, 999] {
        let bytes: Vec<u8> = (0..length).map(|n| (n * 37 % 251) as u8).collect();
        fuzz::run_bytes("vm_donate", &bytes);
    }
}

targets! {
    version pool_topup vm_create vm_donate_meta vm_donate vm_load vm_seal vcpu_create vcpu_run vm_irq vcpu_kick vm_destroy
    vm_reclaim vm_info frame_info pin unpin counters log_read audit console_write
    mem_share mem_unshare mmio_guard hyp_meminfo features vendor_uid
    rsi_version rsi_features rsi_measurement_read rsi_measurement_extend rsi_realm_config rsi_ipa_state_set
    rsi_ipa_state_get rsi_host_call
    psci_cpu_on psci_cpu_off psci_affinity_info psci_features smccc_arch_features psci_system_off
    tdg_vp_info tdg_mr_rtmr_extend tdg_vp_veinfo_get tdg_mr_report tdg_mem_page_accept tdg_vm_rd tdg_vm_wr
    tdvmcall_cpuid tdvmcall_hlt tdvmcall_io tdvmcall_rdmsr tdvmcall_wrmsr tdvmcall_mmio tdvmcall_get_info tdvmcall_map_gpa
    tdvmcall_get_quote tdvmcall_report_fatal_error tdvmcall_setup_event_notify
    abort any_host any_guest any_td
}
