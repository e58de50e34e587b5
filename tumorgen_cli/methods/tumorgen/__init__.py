"""TumorGen: SC-VFE, BA-PMG and VMR behind the contract."""
