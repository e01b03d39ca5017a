impl :: bincode :: Encode for SymbolPart
{
    fn encode < __E : :: bincode :: enc :: Encoder >
    (& self, encoder : & mut __E) ->core :: result :: Result < (), :: bincode
    :: error :: EncodeError >
    {
        :: bincode :: Encode :: encode(&self.separator, encoder) ?; :: bincode
        :: Encode :: encode(&self.first, encoder) ?; core :: result :: Result
        :: Ok(())
    }
}