impl :: bincode :: Encode for IndexSummary
{
    fn encode < __E : :: bincode :: enc :: Encoder >
    (& self, encoder : & mut __E) ->core :: result :: Result < (), :: bincode
    :: error :: EncodeError >
    {
        :: bincode :: Encode :: encode(&self.n_series, encoder) ?; :: bincode
        :: Encode :: encode(&self.n_symbols, encoder) ?; :: bincode :: Encode
        :: encode(&self.n_names, encoder) ?; :: bincode :: Encode ::
        encode(&self.n_pairs, encoder) ?; :: bincode :: Encode ::
        encode(&self.size_bytes, encoder) ?; :: bincode :: Encode ::
        encode(&self.symbol_parts, encoder) ?; core :: result :: Result ::
        Ok(())
    }
}